import { MOST_STREAMS } from '../../wire/frames.js';
import type { CliContext } from '../context.js';
import { addVmmOptions, refuseOptions, V86_ONLY, type VmmOptions } from '../linux/vmm-options.js';
import { addTlsOptions, type TlsOptions, tlsSettingsOf } from '../tls-options.js';
import { type HostPort, parseListenEndpoint, parseMemory, parseSeconds, parseWhole } from '../units.js';
import { receive } from './receive.js';

interface ReceiveOptions extends TlsOptions, VmmOptions {
  readonly listen: HostPort;
  readonly insecure: boolean;
  readonly maxMemory?: number;
  readonly maxChannels: number;
  readonly keep: number;
  readonly once: boolean;
  readonly metrics?: HostPort;
  readonly json?: string;
  readonly quiet: boolean;
}

const DEFAULT_LISTEN = '127.0.0.1:7000';

const HELP = `
Takes guests that lacuna send brings, one after another, and goes on running them: further ones may come while it does, as
memory permits. Ctrl-C ends it, and the guests that it runs with it; one that is still coming in goes on at its source.

Other machines are listened to only with TLS: with certificates that both ends show (--tls-cert, --tls-key, --tls-ca), or
with a key that both know (--tls-psk). --insecure does without: whoever reaches the address can bring a guest then, and
whoever is on the way can read its memory.

With --vmm v86 guests are machines of v86 (lacuna send --vmm v86): the console of the one that came last is at this terminal,
where Ctrl-] q ends it.

A guest whose link breaks is kept for its source to come back (--keep). If it does not, what had arrived is discarded: the
source had not committed, and has the guest, unless it died itself, and its guest with it.

Examples:
  $ lacuna receive
  $ lacuna receive --listen 10.0.0.2:7000 --tls-psk key.txt
  $ lacuna receive --listen :7000 --once --json received.json

Exit codes: 0 ended by Ctrl-C (with --once: the guest runs and has lost nothing), 1 with --once: it did not arrive, or has
lost something; 2 wrong usage.`;

/** Adds `lacuna receive` to the program. */
export function addReceiveCommand({ program, version, commandLine, signal, done }: CliContext): void {
  const command = program
    .command('receive')
    .summary('take guests that lacuna send brings, and run them')
    .description('Listens for guests, receives them while they run elsewhere, and goes on running them.')
    .option(
      '--listen <host:port>',
      `where to listen; port 0: any (default: ${DEFAULT_LISTEN})`,
      parseListenEndpoint,
      parseListenEndpoint(DEFAULT_LISTEN),
    );
  addVmmOptions(command);
  addTlsOptions(command, 'destination')
    .option('--insecure', 'listen to other machines without TLS', false)
    .option(
      '--max-memory <size>',
      'the largest guest that is taken (default: what is available)',
      parseMemory,
    )
    .option(
      '--max-channels <n>',
      'the most connections of a guest that carry pages, each with a thread',
      parseWhole(1, MOST_STREAMS),
      MOST_STREAMS,
    )
    .option('--keep <seconds>', 'how long a guest whose link broke is kept', parseSeconds, 60_000)
    .option('--once', 'end when one guest has arrived and was checked', false)
    .option('--metrics <host:port>', 'serve Prometheus metrics there', parseListenEndpoint)
    .option('--json <file>', 'where what has arrived is written to')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async (options: ReceiveOptions) => {
      const { listen, insecure, maxMemory, maxChannels, keep, once, metrics, json, quiet } = options;
      const request = {
        listen,
        tls: tlsSettingsOf(options),
        insecure,
        mostMemoryBytes: maxMemory,
        mostStreams: maxChannels,
        keepMs: keep,
        once,
        metrics,
        json,
        quiet,
        version,
        command: commandLine,
      };
      const given = (option: string): boolean => command.getOptionValueSource(option) === 'cli';
      if (options.vmm === 'v86') {
        refuseOptions('v86', ['metrics'], given);
        const { imageFor } = await import('../linux/image/command.js');
        const { receiveLinux } = await import('../linux/receive-linux.js');
        const image = await imageFor({ ...options, initOnAlloc: false }, signal);
        done(await receiveLinux({ ...request, image }, signal));
        return;
      }
      refuseOptions('lacuna', V86_ONLY, given);
      done(await receive(request, signal));
    });
}
