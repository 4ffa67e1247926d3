import { expect, it } from 'vitest';
import {
  countExit,
  ExitFeature,
  ExitKind,
  exitsBetween,
  readExits,
  totalExits,
} from '../../../src/balloon/exits.js';
import { VcpuTraps } from '../../../src/balloon/registers.js';
import {
  CONTROL_BYTES,
  ControlBuffer,
  EventWord,
  EXIT_WORDS,
  EXITS,
} from '../../../src/memory/control-buffer.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { CMD_REG_OFFSET } from '../../../src/spec/command-register.js';

function control(): ControlBuffer {
  return new ControlBuffer(atomicMapper, new ArrayBuffer(CONTROL_BYTES), new EventWord(atomicMapper));
}

const features = Object.entries(ExitFeature);
const kinds = [
  ['configReads', ExitKind.configRead],
  ['configWrites', ExitKind.configWrite],
  ['kicks', ExitKind.kick],
] as const;

it('counts each kind of each feature by itself', () => {
  for (const [feature, featureValue] of features) {
    for (const [kind, kindValue] of kinds) {
      const { words } = control();
      countExit(words, featureValue, kindValue);
      countExit(words, featureValue, kindValue);
      const table = readExits(words);
      expect(table[feature as keyof typeof table][kind]).toBe(2);
      const { configReads, configWrites, kicks } = totalExits(table);
      expect(configReads + configWrites + kicks).toBe(2);
    }
  }
});

it('keeps its words within those that the control buffer sets aside for it', () => {
  const { words } = control();
  for (const [, feature] of features) {
    for (const [, kind] of kinds) {
      countExit(words, feature, kind);
    }
  }
  let inside = 0;
  for (let i = 0; i < words.length; i += 1) {
    const counted = words.load(i);
    expect(i >= EXITS && i < EXITS + EXIT_WORDS ? 0 : counted).toBe(0);
    inside += counted;
  }
  expect(inside).toBe(features.length * kinds.length);
});

it('subtracts readings, and adds up features', () => {
  const { words } = control();
  countExit(words, ExitFeature.shared, ExitKind.configRead);
  const before = readExits(words);
  countExit(words, ExitFeature.shared, ExitKind.configRead);
  countExit(words, ExitFeature.reporting, ExitKind.kick);
  countExit(words, ExitFeature.ballooning, ExitKind.kick);
  countExit(words, ExitFeature.other, ExitKind.configWrite);
  countExit(words, ExitFeature.setup, ExitKind.configWrite);
  const between = exitsBetween(before, readExits(words));
  expect(between.shared).toEqual({ configReads: 1, configWrites: 0, kicks: 0 });
  expect(between.reporting).toEqual({ configReads: 0, configWrites: 0, kicks: 1 });
  expect(totalExits(between)).toEqual({ configReads: 1, configWrites: 2, kicks: 2 });
});

it('counts past 2^31 as unsigned', () => {
  const { words } = control();
  words.store(EXITS + ExitFeature.shared * 4, 0x7fff_ffff);
  countExit(words, ExitFeature.shared, ExitKind.configRead);
  expect(readExits(words).shared.configReads).toBe(0x8000_0000);
});

it('every access of a driver is one exit, on the account that it names', () => {
  const buffer = control();
  const traps = new VcpuTraps(buffer);
  traps.readConfig(CMD_REG_OFFSET, ExitFeature.shared);
  traps.readConfig(4000, ExitFeature.other); // no such register: an exit all the same
  traps.writeConfig(CMD_REG_OFFSET, 1, ExitFeature.shared);
  traps.writeConfig(4000, 1, ExitFeature.other);
  traps.kick(3, ExitFeature.reporting);
  const table = readExits(buffer.words);
  expect(table.shared).toEqual({ configReads: 1, configWrites: 1, kicks: 0 });
  expect(table.other).toEqual({ configReads: 1, configWrites: 1, kicks: 0 });
  expect(table.reporting).toEqual({ configReads: 0, configWrites: 0, kicks: 1 });
});
