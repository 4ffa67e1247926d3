import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FrameDecoder } from '../../../src/wire/decoder.js';
import {
  type ConnectionKind,
  checkType,
  Feature,
  FRAMES_OF,
  FrameType,
  frameName,
} from '../../../src/wire/frames.js';
import { decodeError, errorNumber } from '../../../src/wire/hello.js';
import { bytesOf } from '../../support/golden-frames.js';

const DOCUMENT = readFileSync('docs/WIRE-FORMAT.md', 'utf8');

/** Cells, without their backticks, of the table whose head begins with `head`. */
function rowsOf(head: string): string[][] {
  const lines = DOCUMENT.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`| ${head} `));
  expect(start, `a table with the head "${head}"`).toBeGreaterThan(-1);
  const rest = lines.slice(start + 2);
  return rest
    .slice(
      0,
      rest.findIndex((line) => !line.startsWith('|')),
    )
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim().replaceAll('`', '')),
    );
}

const CONNECTIONS = Object.keys(FRAMES_OF) as ConnectionKind[];

function isTaken(type: number, connection: ConnectionKind, isFirst: boolean): boolean {
  try {
    checkType(type, connection, isFirst);
    return true;
  } catch {
    return false;
  }
}

describe('docs/WIRE-FORMAT.md', () => {
  it('has every type with its number, in order', () => {
    const types = rowsOf('type').map(([name, number]) => [name, Number(number)]);
    expect(types).toEqual(Object.entries(FrameType));
  });

  it('says where each of them may come', () => {
    for (const [name, number, where] of rowsOf('type')) {
      const words = where!.split(', ');
      const comesFirst = words.includes('first');
      const places = words.filter((word) => word !== 'first').map((word) => word.replaceAll(' ', '-'));
      const type = Number(number);
      const taken = CONNECTIONS.filter((connection) => FRAMES_OF[connection].includes(type));
      expect(
        taken.filter((kind) => kind !== 'accepted'),
        name,
      ).toEqual(places);
      for (const connection of taken) {
        expect(isTaken(type, connection, true), name).toBe(comesFirst || name === 'error' || name === 'pong');
        expect(isTaken(type, connection, false), name).toBe(!comesFirst);
      }
    }
  });

  it('has every number of an error', () => {
    const rows = rowsOf('number');
    expect(rows.length).toBeGreaterThan(5);
    for (const [number, code] of rows) {
      const { code: read } = decodeError(Number(number), new Uint8Array(0));
      expect(read).toBe(code);
      expect(errorNumber(read)).toBe(Number(number));
    }
    // The next one is unknown.
    expect(decodeError(rows.length, new Uint8Array(0)).code).toBe(rows[0]![1]);
  });

  it('has every feature', () => {
    const bits = rowsOf('bit').map(([bit]) => 2 ** Number(bit));
    expect(bits).toEqual(Object.values(Feature));
  });

  it('has dumps that are what it says', () => {
    const dumps = [...DOCUMENT.matchAll(/```hex ([a-z-]+): ([A-Za-z ]+)\n([\s\S]*?)```/g)];
    expect(dumps).toHaveLength(1);
    for (const [, connection, names, dump] of dumps) {
      const found: string[] = [];
      const decoder = new FrameDecoder(
        { header: () => undefined, frame: ({ type }) => found.push(frameName(type)) },
        { keptPayloadBytes: 4096, connection: connection as ConnectionKind, epoch: 1 },
      );
      decoder.push(bytesOf(dump!.replaceAll(/;.*$/gm, '')));
      expect(found).toEqual(names!.split(' ').map((name) => `a frame "${name}"`));
      expect(decoder.isBetweenFrames).toBe(true);
    }
  });
});
