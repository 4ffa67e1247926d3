import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { flatKernel, packedKernel } from './flat-kernel.js';
import { GUEST_FILE, type GuestFiles, type Log, type Missing } from './guest-files.js';
import { WANTED_MODULES } from './initramfs.js';
import { builtInModules, moduleName, moduleOrder } from './kernel-modules.js';

const ARCHITECTURE = 'i386';
/** Depends on the newest kernel of the release, whose package has the version in its name. */
const KERNEL = 'linux-image-686';
const BUSYBOX = 'busybox-static';
const BIOS = 'seabios';

/**
 * Says what is taken out of which packages, and what becomes of it: the name under which it is stored follows from it, so a
 * version of lacuna that wants something else finds nothing stored.
 */
export const DEBIAN_RECIPE: string = [ARCHITECTURE, KERNEL, BUSYBOX, BIOS, ...WANTED_MODULES, 'flat'].join(
  ' ',
);

/** What a tool said, and how it ended. */
export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a tool in `folder`. Rejects with what the system says if it can't be started. */
export type RunTool = (command: string, args: readonly string[], folder: string) => Promise<ToolResult>;

/** A package that apt would fetch. */
export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  /** What apt calls it on disk. */
  readonly file: string;
  readonly lengthBytes: number;
}

/**
 * Fetches the guest's files from the Debian that this machine's own apt sources name, for i386, and leaves the machine as
 * it is: apt gets folders of its own for its lists, its cache and its state, and none of the machine's hooks. No root.
 */
export async function fetchFromDebian(log: Log, run: RunTool = toolRunner()): Promise<GuestFiles | Missing> {
  const folder = mkdtempSync(join(tmpdir(), 'lacuna-apt-'));
  try {
    // Where root calls it, apt fetches as another user.
    chmodSync(folder, 0o755);
    return await new DebianFetch(folder, log, run).fetch();
  } catch (thrown) {
    if (thrown instanceof Unavailable) {
      return { missing: thrown.message };
    }
    throw thrown;
  } finally {
    // Where a fetch is called off, a tool may write on for a moment.
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** Ends a fetch: what is missing. */
class Unavailable extends Error {}

class DebianFetch {
  readonly #folder: string;
  readonly #log: Log;
  readonly #run: RunTool;
  readonly #settings: string;

  constructor(folder: string, log: Log, run: RunTool) {
    this.#folder = folder;
    this.#log = log;
    this.#run = run;
    this.#settings = join(folder, 'apt.conf');
  }

  async fetch(): Promise<GuestFiles> {
    for (const path of ['state/lists/partial', 'cache/archives/partial', 'root']) {
      mkdirSync(join(this.#folder, path), { recursive: true });
    }
    writeFileSync(join(this.#folder, 'state/status'), '');
    writeFileSync(this.#settings, aptSettings(this.#folder));

    this.#log(`asking this machine's apt sources for Debian's packages for ${ARCHITECTURE}`);
    const update = await this.#tool('apt-get', ['-c', this.#settings, '-qq', 'update']);
    // Some other source of the machine's may be out of reach: what matters is whether the packages are found.
    const show = await this.#tool('apt-cache', ['-c', this.#settings, 'show', '--no-all-versions', KERNEL]);
    const kernel = parseKernelDependency(show.stdout);
    if (kernel === undefined) {
      throw new Unavailable(
        `this machine's apt sources have no ${KERNEL} for ${ARCHITECTURE} (is it Debian, and is there a network?)${said(update)}`,
      );
    }
    const names = [kernel, BUSYBOX, BIOS];
    const uris = await this.#tool('apt-get', [
      '-c',
      this.#settings,
      '-q',
      '--print-uris',
      'download',
      ...names,
    ]);
    const packages = parsePrintUris(uris.stdout);
    const absent = names.filter((name) => !packages.some((found) => found.name === name));
    if (absent.length > 0) {
      throw new Unavailable(`this machine's apt sources have no ${absent.join(' and no ')}${said(uris)}`);
    }
    for (const { name, version, lengthBytes } of packages) {
      this.#log(`fetching ${name} ${version} (${(lengthBytes / 2 ** 20).toFixed(1)} MiB)`);
    }
    // Apt checks the packages against the lists, and the lists against Debian's signature.
    const download = await this.#tool('apt-get', ['-c', this.#settings, '-qq', 'download', ...names]);
    const incomplete = packages.filter(({ file }) => !existsSync(join(this.#folder, file)));
    if (download.code !== 0 || incomplete.length > 0) {
      throw new Unavailable(
        `apt could not fetch ${(incomplete.length > 0 ? incomplete : packages).map(({ name }) => name).join(', ')}${said(download)}`,
      );
    }
    return {
      packages: Object.fromEntries(packages.map(({ name, version }) => [name, version])),
      files: await this.#unpack(kernel, packages),
    };
  }

  async #unpack(kernel: string, packages: readonly DebianPackage[]): Promise<Map<string, Uint8Array>> {
    const patterns: Record<string, readonly string[]> = {
      [kernel]: [
        './boot/vmlinuz-*',
        './lib/modules/*/modules.builtin',
        './lib/modules/*/kernel/drivers/virtio/*.ko',
      ],
      [BUSYBOX]: ['./bin/busybox'],
      [BIOS]: ['./usr/share/seabios/bios.bin', './usr/share/seabios/vgabios-stdvga.bin'],
    };
    const root = join(this.#folder, 'root');
    for (const { name, file } of packages) {
      // Of the kernel's package that is 6 MiB of 300.
      const script = 'deb=$1; shift; dpkg-deb --fsys-tarfile "$deb" | tar -x -C root --wildcards "$@"';
      const { code, ...rest } = await this.#tool('sh', [
        '-c',
        script,
        'unpack',
        file,
        ...(patterns[name] ?? []),
      ]);
      if (code !== 0) {
        throw new Unavailable(`${name} could not be unpacked${said({ code, ...rest })}`);
      }
    }
    const release = only(join(root, 'lib/modules'));
    const drivers = join(root, 'lib/modules', release, 'kernel/drivers/virtio');
    const modules = new Map<string, Uint8Array>(
      readdirSync(drivers).map((file) => [moduleName(file), readFileSync(join(drivers, file))]),
    );
    const builtIn = builtInModules(
      readFileSync(join(root, 'lib/modules', release, 'modules.builtin'), 'utf8'),
    );
    return new Map<string, Uint8Array>([
      [
        GUEST_FILE.kernel,
        await this.#unpackKernel(readFileSync(join(root, 'boot', only(join(root, 'boot'))))),
      ],
      [GUEST_FILE.busybox, readFileSync(join(root, 'bin/busybox'))],
      [GUEST_FILE.bios, readFileSync(join(root, 'usr/share/seabios/bios.bin'))],
      [GUEST_FILE.vgaBios, readFileSync(join(root, 'usr/share/seabios/vgabios-stdvga.bin'))],
      ...moduleOrder(WANTED_MODULES, modules, builtIn).map((name): [string, Uint8Array] => [
        `${name}.ko`,
        modules.get(name)!,
      ]),
    ]);
  }

  /** The kernel unpacked, if it can be: as it is it boots too, and takes longer. */
  async #unpackKernel(image: Buffer): Promise<Buffer> {
    const packed = packedKernel(image);
    if (packed !== undefined) {
      // Node has nothing that unpacks xz, and xz-utils need not be installed; dpkg-deb unpacks what a package calls its data.
      writeFileSync(join(this.#folder, 'kernel.deb'), packageOf(packed));
      const { code } = await this.#tool('sh', ['-c', 'dpkg-deb --fsys-tarfile kernel.deb >kernel.elf']);
      const flat = code === 0 ? flatKernel(image, readFileSync(join(this.#folder, 'kernel.elf'))) : undefined;
      if (flat !== undefined) {
        return flat;
      }
    }
    this.#log(
      'the kernel could not be unpacked here: the guest will do it, and take some seconds longer to boot',
    );
    return image;
  }

  async #tool(command: string, args: readonly string[]): Promise<ToolResult> {
    try {
      return await this.#run(command, args, this.#folder);
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') {
        throw new Unavailable(`there is no ${command} here, which comes with Debian and its relatives`);
      }
      throw thrown;
    }
  }
}

/**
 * Apt's settings, read after the machine's own. Hooks are taken out: one that is common in containers empties the machine's
 * package cache after every update.
 */
export function aptSettings(folder: string): string {
  return `#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "${ARCHITECTURE}";
APT::Architectures { "${ARCHITECTURE}"; };
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "${folder}/state";
Dir::State::status "${folder}/state/status";
Dir::Cache "${folder}/cache";
`;
}

/** The kernel's package by its version, which `apt-cache show` of the one without says it depends on. */
export function parseKernelDependency(show: string): string | undefined {
  return /^Depends:.*?\b(linux-image-\d[\w.+-]*)/m.exec(show)?.[1];
}

/** What `apt-get --print-uris download` would fetch: `'<uri>' <name>_<version>_<architecture>.deb <bytes> SHA256:<hash>`. */
export function parsePrintUris(text: string): DebianPackage[] {
  const packages: DebianPackage[] = [];
  for (const [, file, name, version, bytes] of text.matchAll(
    /^'[^']*' (([^_\s/]+)_([^_\s/]+)_[^_\s/]+\.deb) (\d+) /gm,
  )) {
    // The colon of an epoch is %3a in a file's name.
    packages.push({
      name: name!,
      version: version!.replace(/%3a/i, ':'),
      file: file!,
      lengthBytes: Number(bytes),
    });
  }
  return packages;
}

/** The only thing in a folder. */
function only(folder: string): string {
  const names = readdirSync(folder);
  if (names.length !== 1) {
    throw new Unavailable(
      `the kernel's package has ${names.length} of what there should be one: ${names.join(', ')}`,
    );
  }
  return names[0]!;
}

/** A Debian package (deb(5), ar(5)) whose data is an xz stream: three files, each padded to an even length. */
function packageOf(xz: Buffer): Buffer {
  const file = (name: string, data: Buffer): Buffer[] => [
    Buffer.from(
      `${name.padEnd(16)}${'0'.padEnd(12)}0     0     100644  ${String(data.length).padEnd(10)}\`\n`,
    ),
    data,
    Buffer.alloc(data.length % 2, '\n'),
  ];
  return Buffer.concat([
    Buffer.from('!<arch>\n'),
    ...file('debian-binary', Buffer.from('2.0\n')),
    ...file('control.tar', Buffer.alloc(0)),
    ...file('data.tar.xz', xz),
  ]);
}

const MOST_LINES_SAID = 6;

/** The last that a tool complained of, to be put behind a message. */
function said({ stderr }: ToolResult): string {
  const lines = stderr
    .split('\n')
    .filter((line) => /\S/.test(line))
    .slice(-MOST_LINES_SAID);
  return lines.length === 0 ? '' : `:\n  ${lines.join('\n  ')}`;
}

/** Runs a tool of this machine's, in English; the signal ends it. */
export function toolRunner(signal?: AbortSignal): RunTool {
  return (command, args, folder) =>
    new Promise((resolve, reject) => {
      const child = spawn(command, args, {
        cwd: folder,
        env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
        stdio: ['ignore', 'pipe', 'pipe'],
        ...(signal === undefined ? {} : { signal }),
      });
      let stdout = '';
      let stderr = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        stdout += text;
      });
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        stderr += text;
      });
      child.on('error', reject);
      child.on('close', (code) => resolve({ code: code ?? 1, stdout, stderr }));
    });
}
