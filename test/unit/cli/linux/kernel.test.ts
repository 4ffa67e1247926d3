import { describe, expect, it } from 'vitest';
import { flatKernel, packedKernel } from '../../../../src/cli/linux/image/flat-kernel.js';
import {
  builtInModules,
  kernelVersion,
  moduleDependencies,
  moduleName,
  moduleOrder,
} from '../../../../src/cli/linux/image/kernel-modules.js';

/** A module's `.modinfo` between other bytes, as in a file. */
function moduleThatNeeds(...names: string[]): Buffer {
  return Buffer.from(
    `\x7fELF\0depends\0license=GPL\0depends=${names.join(',')}\0retpoline=Y\0\xff`,
    'latin1',
  );
}

describe('modules', () => {
  const modules = new Map([
    ['virtio_balloon', moduleThatNeeds('virtio', 'virtio_ring')],
    ['virtio_pci', moduleThatNeeds('virtio_ring', 'virtio_pci_modern_dev', 'virtio')],
    ['virtio_pci_modern_dev', moduleThatNeeds()],
    ['virtio', moduleThatNeeds()],
    ['virtio_ring', moduleThatNeeds('virtio')],
  ]);

  it('come after what they need, once each, and no others', () => {
    expect(moduleOrder(['virtio_balloon'], modules)).toEqual(['virtio', 'virtio_ring', 'virtio_balloon']);
    const both = moduleOrder(['virtio_pci', 'virtio_balloon'], modules);
    expect(both).toHaveLength(5);
    for (const [index, name] of both.entries()) {
      for (const needed of moduleDependencies(modules.get(name)!)) {
        expect(both.slice(0, index)).toContain(needed);
      }
    }
  });

  it('that are built into the kernel are not loaded', () => {
    const builtIn = builtInModules('kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio-ring.ko\n');
    expect(moduleOrder(['virtio_balloon'], modules, builtIn)).toEqual(['virtio_balloon']);
  });

  it('that are missing are named, with who needs them', () => {
    const less = new Map([...modules].filter(([name]) => name !== 'virtio_ring'));
    expect(() => moduleOrder(['virtio_balloon'], less)).toThrow(
      /no module virtio_ring, which virtio_balloon needs/,
    );
    expect(() => moduleOrder(['virtio_net'], modules)).toThrow(/no module virtio_net: /);
  });

  it('that need each other are refused', () => {
    const circle = new Map([
      ['a', moduleThatNeeds('b')],
      ['b', moduleThatNeeds('a')],
    ]);
    expect(() => moduleOrder(['a'], circle)).toThrow(/in a circle: a, b, a/);
  });

  it('have one name, however it is spelt', () => {
    expect(moduleName('kernel/drivers/char/hw_random/virtio-rng.ko')).toBe('virtio_rng');
  });
});

// Made-up kernels, at the places where the standards have their fields.
const SETUP_SECTORS = 3;
const XZ = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 1, 2, 3, 4, 5]);

function bzImage(payload: Buffer): Buffer {
  const image = Buffer.alloc((SETUP_SECTORS + 1) * 512);
  image[0x1f1] = SETUP_SECTORS;
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(0x300, 0x20e);
  image.write('6.1.0-50-686 (someone) #1\0', 0x500, 'latin1');
  const stub = Buffer.alloc(100, 0x90);
  image.writeUInt32LE(stub.length, 0x248);
  image.writeUInt32LE(payload.length + 4, 0x24c);
  return Buffer.concat([image, stub, payload, Buffer.from([9, 9, 9, 9])]);
}

interface Segment {
  readonly gpa: number;
  readonly data: Buffer;
}

function elf(entryGpa: number, segments: readonly Segment[]): Buffer {
  const header = Buffer.alloc(52);
  header.write('\x7fELF', 'latin1');
  header[4] = 1;
  header[5] = 1;
  header.writeUInt16LE(3, 18);
  header.writeUInt32LE(entryGpa, 24);
  header.writeUInt32LE(52, 28);
  header.writeUInt16LE(32, 42);
  header.writeUInt16LE(segments.length, 44);
  const headers = Buffer.alloc(32 * segments.length);
  let offset = 52 + headers.length;
  segments.forEach(({ gpa, data }, index) => {
    headers.writeUInt32LE(1, index * 32);
    headers.writeUInt32LE(offset, index * 32 + 4);
    headers.writeUInt32LE(gpa, index * 32 + 12);
    headers.writeUInt32LE(data.length, index * 32 + 16);
    offset += data.length;
  });
  return Buffer.concat([header, headers, ...segments.map(({ data }) => data)]);
}

describe('a kernel', () => {
  it('says its version', () => {
    expect(kernelVersion(bzImage(XZ))).toBe('6.1.0-50-686');
    expect(kernelVersion(Buffer.from('#!/bin/sh\n'))).toBeUndefined();
    expect(kernelVersion(Buffer.alloc(4096))).toBeUndefined();
  });

  it('is found where the header says, without the size behind it', () => {
    expect(packedKernel(bzImage(XZ))).toEqual(XZ);
    expect(packedKernel(bzImage(Buffer.from('something else')))).toBeUndefined();
    expect(packedKernel(bzImage(XZ).subarray(0, -1))).toBeUndefined();
    expect(packedKernel(Buffer.alloc(100))).toBeUndefined();
  });

  it('is copied to its place by what stands in front of it', () => {
    const image = bzImage(XZ);
    const first = Buffer.from('first segment');
    const second = Buffer.from('the second');
    const flat = flatKernel(
      image,
      elf(0x100_0010, [
        { gpa: 0x100_1000, data: second },
        { gpa: 0x100_0000, data: first },
      ]),
    )!;
    const setupBytes = (SETUP_SECTORS + 1) * 512;
    // The setup code as it was, but for the length of what follows.
    const setup = Buffer.from(flat.subarray(0, setupBytes));
    expect(setup.readUInt32LE(0x1f4)).toBe(Math.ceil((flat.length - setupBytes) / 16));
    setup.writeUInt32LE(0, 0x1f4);
    expect(setup.equals(image.subarray(0, setupBytes))).toBe(true);

    const { memory, entered, esi } = execute(flat.subarray(setupBytes), 0x9_0000);
    expect(memory.subarray(0x100_0000, 0x100_0000 + first.length)).toEqual(first);
    expect(memory.subarray(0x100_1000, 0x100_1000 + second.length)).toEqual(second);
    expect(memory.subarray(0x100_0000 + first.length, 0x100_1000).every((byte) => byte === 0)).toBe(true);
    expect(entered).toBe(0x100_0010);
    expect(esi).toBe(0x9_0000);
  });

  it('stays packed where it could not be copied, or is for another processor', () => {
    const image = bzImage(XZ);
    const data = Buffer.alloc(0x1000);
    // Loaded at 1 MiB it ends at 0x101040.
    expect(flatKernel(image, elf(0x10_1044, [{ gpa: 0x10_1044, data }]))).toBeDefined();
    expect(flatKernel(image, elf(0x10_1030, [{ gpa: 0x10_1030, data }]))).toBeUndefined();
    const other = elf(0x100_0000, [{ gpa: 0x100_0000, data }]);
    other.writeUInt16LE(62, 18);
    expect(flatKernel(image, other)).toBeUndefined();
    expect(flatKernel(image, elf(0, []))).toBeUndefined();
    expect(flatKernel(image, Buffer.from('no ELF'))).toBeUndefined();
    expect(flatKernel(image, elf(0x100_0000, [{ gpa: 0x100_0000, data }]).subarray(0, -1))).toBeUndefined();
  });
});

/** Runs the few instructions that there are, loaded at 1 MiB, with the boot parameters at `esi`. */
function execute(code: Buffer, esi: number): { memory: Buffer; entered: number; esi: number } {
  const memory = Buffer.alloc(0x200_0000);
  code.copy(memory, 0x10_0000);
  // eax, ecx, edx, ebx, esp, ebp, esi, edi
  const registers = new Uint32Array(8).fill(0xdead);
  registers[6] = esi;
  let at = 0x10_0000;
  while (true) {
    const [op, next] = [memory[at]!, memory[at + 1]!];
    if (op === 0xfc) {
      at += 1;
    } else if (op >= 0xb8 && op <= 0xbf) {
      registers[op - 0xb8] = memory.readUInt32LE(at + 1);
      at += 5;
    } else if (op === 0x89 && next >= 0xc0) {
      registers[next & 7] = registers[(next >> 3) & 7]!;
      at += 2;
    } else if (op === 0x31 && next >= 0xc0) {
      registers[next & 7] = registers[next & 7]! ^ registers[(next >> 3) & 7]!;
      at += 2;
    } else if (op === 0xf3 && next === 0xa5) {
      for (; registers[1]! > 0; registers[1]! -= 1) {
        memory.writeUInt32LE(memory.readUInt32LE(registers[6]!), registers[7]!);
        registers[6]! += 4;
        registers[7]! += 4;
      }
      at += 2;
    } else if (op === 0xff && next === 0xe0) {
      return { memory, entered: registers[0]!, esi: registers[6]! };
    } else {
      throw new Error(`an instruction that was not expected, at ${at.toString(16)}: ${op.toString(16)}`);
    }
  }
}
