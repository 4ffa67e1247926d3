import {
  VIRTIO_BALLOON_CMD_ID_DONE,
  VIRTIO_BALLOON_CMD_ID_STOP,
  VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID,
  VIRTIO_BALLOON_CONFIG_NUM_PAGES,
} from '../spec/virtio-balloon.js';
import type { BalloonCommands, ReportCommands } from './command-driver.js';
import { ExitFeature } from './exits.js';
import type { PolledRegister } from './polling-driver.js';

/** What the hinting half of the driver does in this dialect. */
export interface HintCommands extends ReportCommands {
  /** Hints are of no use any more: a report that is under way ends, and blocks that were held come back (D10). */
  done(): void;
}

/**
 * What a driver of VIRTIO's dialect looks at when its config interrupt is raised (§ 5.5.6, § 5.5.6.5), for a
 * `PollingDriver`. The id first: a start should not wait for the other read.
 *
 * A register says what is wanted now. An id that was followed by STOP and DONE before it was read was never seen, and
 * nothing was lent for it; an id that follows DONE before that was read has what was lent for the one before kept until
 * the next DONE.
 */
export function virtioConfig(hints: HintCommands, balloon: BalloonCommands): PolledRegister[] {
  return [
    {
      name: 'free_page_hint_cmd_id',
      offset: VIRTIO_BALLOON_CONFIG_FREE_PAGE_HINT_CMD_ID,
      exitFeature: ExitFeature.reporting,
      changed: (id) => {
        if (id === VIRTIO_BALLOON_CMD_ID_DONE) {
          hints.done();
        } else if (id === VIRTIO_BALLOON_CMD_ID_STOP) {
          hints.stop();
        } else {
          hints.start(id);
        }
      },
    },
    {
      name: 'num_pages',
      offset: VIRTIO_BALLOON_CONFIG_NUM_PAGES,
      exitFeature: ExitFeature.ballooning,
      changed: (pages) => balloon.setTarget(pages),
    },
  ];
}
