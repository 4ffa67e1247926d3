import { SMALL_WORLD, type WorldBounds } from './migration-world.js';

/** A world that is explored to its end, and what there is to be found in it. */
export interface NamedWorld {
  readonly name: string;
  readonly bounds: WorldBounds;
  /** Counted; a change of the engine or of a world changes them, and is to be understood before they are. */
  readonly states: number;
  readonly transitions: number;
  /** Steps to the state that is farthest from the start. */
  readonly depth: number;
  /** Explored by `npm run test:long` only. */
  readonly long?: boolean;
}

const world = (
  name: string,
  bounds: Partial<WorldBounds>,
  [states, transitions, depth]: readonly [number, number, number],
  long = false,
): NamedWorld => ({ name, bounds: { ...SMALL_WORLD, ...bounds }, states, transitions, depth, long });

const WRITE = { writes: 1, allocations: 0 } as const;
const TAKE_BACK = { writes: 0, allocations: 1 } as const;
const QUIET = { writes: 0, allocations: 0 } as const;
/** Every access to something shared is a step of its own, the host's and the guest's. */
const SPLIT = { guest: 'all', host: true, destination: false } as const;
const POISON = 0xaaaa_aaaa;
const VIRTIO = { dialect: 'virtio', rounds: 1 } as const;
const THREE_PAGES = { pages: 3, freePages: 1 } as const;

/** Both ways of reporting, three schedules, and what the guest does meanwhile. */
export const WORLDS: readonly NamedWorld[] = [
  world('walk, wait: a used page is written', { ...WRITE }, [35_049, 63_322, 58], true),
  world('walk, wait: a free page is taken back and written', { ...TAKE_BACK }, [41_511, 71_160, 61]),
  world('walk, adaptive: a used page is written', { schedule: 'adaptive', ...WRITE }, [36_501, 68_211, 58]),
  world(
    'walk, adaptive: a free page is taken back and written',
    { schedule: 'adaptive', ...TAKE_BACK },
    [42_639, 75_522, 61],
    true,
  ),
  world(
    'walk, overlap: a used page is written',
    { schedule: 'overlap', rounds: 1, ...WRITE },
    [77_582, 146_500, 42],
    true,
  ),
  world(
    'walk, overlap: a free page is taken back and written',
    { schedule: 'overlap', rounds: 1, ...TAKE_BACK },
    [95_141, 172_910, 45],
    true,
  ),
  world('hold, wait: a used page is written', { reportMode: 'hold', ...WRITE }, [38_871, 70_252, 58]),
  world(
    'hold, wait: a held page is taken back and written',
    { reportMode: 'hold', ...TAKE_BACK },
    [59_760, 101_351, 62],
    true,
  ),
  world(
    'hold, adaptive: a used page is written',
    { reportMode: 'hold', schedule: 'adaptive', ...WRITE },
    [40_104, 74_841, 58],
    true,
  ),
  world(
    'hold, adaptive: a held page is taken back and written',
    { reportMode: 'hold', schedule: 'adaptive', ...TAKE_BACK },
    [60_884, 106_451, 62],
    true,
  ),
  world(
    'hold, overlap: a used page is written',
    { reportMode: 'hold', schedule: 'overlap', rounds: 1, ...WRITE },
    [78_884, 149_007, 42],
  ),
  world(
    'hold, overlap: a held page is taken back and written',
    { reportMode: 'hold', schedule: 'overlap', rounds: 1, ...TAKE_BACK },
    [124_760, 224_663, 46],
    true,
  ),
  world(
    'walk, overlap, two rounds: the guest only reports',
    { schedule: 'overlap', ...QUIET },
    [209_979, 363_641, 56],
    true,
  ),
  world(
    'a page is freed, and another is taken',
    { ...THREE_PAGES, rounds: 1, writes: 0, allocations: 1, frees: 1 },
    [48_364, 78_459, 49],
  ),
  world(
    'hold: a page is freed, and another is taken',
    { ...THREE_PAGES, reportMode: 'hold', rounds: 1, writes: 0, allocations: 1, frees: 1 },
    [71_198, 114_639, 49],
    true,
  ),
  world(
    'a page is written after it was sent, freed, and hinted in the next round',
    { ...THREE_PAGES, writes: 1, allocations: 0, frees: 1 },
    [101_224, 182_443, 61],
    true,
  ),
  world(
    'poisoned: a page is written after it was sent, freed, and hinted in the next round',
    { ...THREE_PAGES, poison: POISON, writes: 1, allocations: 0, frees: 1 },
    [104_788, 190_306, 63],
    true,
  ),
  world(
    'poisoned, hold: a held page is taken back and written',
    { ...THREE_PAGES, reportMode: 'hold', poison: POISON, ...TAKE_BACK },
    [31_619, 55_264, 62],
  ),
  world(
    'zero pages are detected',
    { ...THREE_PAGES, rounds: 1, zeroDetection: true, writes: 1, allocations: 1 },
    [59_129, 104_669, 49],
  ),
  world('a ring of two entries', { ringSize: 2, ...QUIET }, [16_683, 27_520, 60]),
  world(
    'hold: a ring of two entries, so that blocks are dropped',
    { ringSize: 2, reportMode: 'hold', ...TAKE_BACK, rounds: 1 },
    [23_816, 37_641, 48],
  ),
  world('event indices', { eventIdx: true, rounds: 1, ...TAKE_BACK }, [11_805, 18_539, 45]),
  world(
    'time passes at any moment',
    { rounds: 1, ticks: 2, timeouts: 1, ...TAKE_BACK },
    [250_000, 471_406, 37],
    true,
  ),
  world(
    'overlap: time passes at any moment',
    { rounds: 1, schedule: 'overlap', ticks: 1, timeouts: 1, ...QUIET },
    [97_018, 162_924, 41],
    true,
  ),
  world(
    'adaptive: time passes at any moment',
    { rounds: 1, schedule: 'adaptive', ticks: 2, timeouts: 1, ...QUIET },
    [105_238, 176_244, 42],
    true,
  ),
  world('it is cancelled at any moment', { rounds: 1, cancels: 1, ...TAKE_BACK }, [15_930, 30_094, 43]),
  world(
    'hold: it is cancelled at any moment',
    { reportMode: 'hold', rounds: 1, cancels: 1, ...TAKE_BACK },
    [20_272, 37_477, 44],
  ),
  world(
    'hold: it is cancelled at any moment, and deadlines pass',
    { reportMode: 'hold', rounds: 1, cancels: 1, timeouts: 1, ...QUIET },
    [7_758, 13_325, 38],
  ),
  world(
    'the link is cut at any moment',
    { rounds: 1, faults: ['link-cut'], ...TAKE_BACK },
    [11_480, 19_542, 46],
  ),
  world(
    'the destination dies at any moment',
    { rounds: 1, faults: ['destination-dies'], ...TAKE_BACK },
    [11_848, 19_960, 45],
  ),
  world(
    'the link breaks at any moment, and is restored: a used page is written',
    { ...THREE_PAGES, hints: false, rounds: 1, faults: ['link-breaks'], ...WRITE },
    [12_788, 22_178, 46],
  ),
  world(
    'the link breaks at any moment, and is restored, or not in time, or it is cancelled meanwhile',
    { ...THREE_PAGES, hints: false, rounds: 1, faults: ['link-breaks'], cancels: 1, timeouts: 1, ...QUIET },
    [7_812, 11_330, 39],
  ),
  world(
    'the link breaks at any moment, and is restored: the guest only reports',
    { ...THREE_PAGES, rounds: 1, faults: ['link-breaks'], ...QUIET },
    [140_115, 232_240, 68],
    true,
  ),
  world(
    'the link breaks at any moment, and is restored: a free page is taken back and written',
    { ...THREE_PAGES, ringSize: 8, rounds: 1, faults: ['link-breaks'], ...TAKE_BACK },
    [865_179, 1_495_285, 77],
    true,
  ),
  world('a reply is lost', { rounds: 1, faults: ['reply-lost'], cancels: 1, ...QUIET }, [2_817, 5_009, 39]),
  world(
    'the destination refuses to start the guest',
    { rounds: 1, faults: ['refuses-to-start'], cancels: 1, ...QUIET },
    [4_905, 10_966, 37],
  ),
  world(
    'hold: anything goes wrong, and it is cancelled too',
    {
      reportMode: 'hold',
      rounds: 1,
      faults: ['link-cut', 'destination-dies', 'reply-lost', 'refuses-to-start'],
      cancels: 1,
      timeouts: 1,
      ...QUIET,
    },
    [33_588, 69_163, 41],
  ),
  world('access by access', { rounds: 1, split: SPLIT, ...QUIET }, [19_040, 36_590, 125]),
  world(
    'access by access: a used page is written',
    { ...THREE_PAGES, rounds: 1, split: { ...SPLIT, guest: 'writes' }, ...WRITE },
    [40_392, 76_055, 110],
  ),
  world(
    'access by access: a free page is taken back and written',
    { ...THREE_PAGES, rounds: 1, split: { ...SPLIT, guest: 'writes' }, ...TAKE_BACK },
    [31_640, 58_967, 112],
    true,
  ),
  world(
    'hold, access by access',
    { ...THREE_PAGES, reportMode: 'hold', rounds: 1, split: SPLIT, ...QUIET },
    [19_430, 37_241, 125],
  ),
  world(
    'overlap, access by access',
    { ...THREE_PAGES, schedule: 'overlap', rounds: 1, split: SPLIT, ...QUIET },
    [250_000, 550_022, 91],
    true,
  ),
  world(
    'access by access, cancelled at any moment',
    { ...THREE_PAGES, rounds: 1, cancels: 1, split: SPLIT, ...QUIET },
    [75_234, 153_390, 120],
    true,
  ),
  world(
    'access by access, two rounds',
    { ...THREE_PAGES, split: { ...SPLIT, guest: 'all' }, ...QUIET },
    [168_969, 380_824, 199],
    true,
  ),
  // VIRTIO's dialect, with its DONE.
  world(
    'virtio, walk: a free page is taken back and written',
    { ...VIRTIO, ...TAKE_BACK },
    [9_524, 14_900, 43],
  ),
  world(
    'virtio, hold: a used page is written',
    { ...VIRTIO, reportMode: 'hold', ...WRITE },
    [9_194, 15_362, 40],
  ),
  world(
    'virtio, hold: a held page is taken back and written',
    { ...VIRTIO, reportMode: 'hold', ...TAKE_BACK },
    [12_361, 19_146, 44],
  ),
  world(
    'virtio, hold, two rounds: what is held in the first is still held in the second',
    { ...VIRTIO, ...THREE_PAGES, reportMode: 'hold', rounds: 2, writes: 1, allocations: 0, frees: 1 },
    [94_644, 172_825, 58],
    true,
  ),
  world(
    'virtio, hold: it is cancelled at any moment',
    { ...VIRTIO, reportMode: 'hold', cancels: 1, ...TAKE_BACK },
    [21_331, 38_543, 45],
  ),
  world(
    'virtio, hold: it is cancelled at any moment, and deadlines pass',
    { ...VIRTIO, reportMode: 'hold', cancels: 1, timeouts: 1, ...QUIET },
    [8_706, 14_868, 39],
  ),
  world(
    'virtio, hold: anything goes wrong',
    {
      ...VIRTIO,
      reportMode: 'hold',
      faults: ['destination-dies', 'reply-lost', 'refuses-to-start'],
      cancels: 1,
      ...QUIET,
    },
    [9_056, 18_285, 38],
  ),
  world(
    'virtio, hold: the link breaks at any moment, and is restored',
    { ...VIRTIO, ...THREE_PAGES, reportMode: 'hold', faults: ['link-breaks'], ...QUIET },
    [78_845, 134_144, 63],
    true,
  ),
  world(
    'virtio, hold, access by access',
    { ...VIRTIO, ...THREE_PAGES, reportMode: 'hold', split: SPLIT, ...QUIET },
    [23_135, 44_865, 137],
  ),
];
