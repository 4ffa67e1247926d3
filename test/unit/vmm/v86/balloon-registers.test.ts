import { describe, expect, it } from 'vitest';
import {
  VIRTIO_BALLOON_F_FREE_PAGE_HINT,
  VIRTIO_BALLOON_F_PAGE_POISON,
  VIRTIO_BALLOON_F_STATS_VQ,
} from '../../../../src/spec/virtio-balloon.js';
import { V86BalloonRegisters } from '../../../../src/vmm/v86/balloon-registers.js';
import { FakeMachine, type FakeVirtIO } from '../../../support/fake-v86.js';

interface Rig {
  readonly registers: V86BalloonRegisters;
  readonly virtio: FakeVirtIO;
  readonly heard: string[];
}

function makeRegisters(): Rig {
  const { cpu } = new FakeMachine(16);
  const heard: string[] = [];
  const registers = new V86BalloonRegisters(cpu, cpu.devices.virtio_balloon.virtio, {
    kicked: (queue) => heard.push(`kick ${queue}`),
    reset: () => heard.push('reset'),
  });
  return { registers, virtio: registers.virtio as FakeVirtIO, heard };
}

describe("a balloon's registers on v86's transport", () => {
  it('V13 has the statistics queue, always, so that free pages come on queue 3', () => {
    const { virtio } = makeRegisters();
    expect(virtio.options.common.features).toContain(VIRTIO_BALLOON_F_STATS_VQ);
    expect(virtio.options.common.queues).toHaveLength(4);
  });

  it('has hints only once a driver that hints is ready', () => {
    const { registers, virtio } = makeRegisters();
    expect(registers.hints).toBe(false);
    virtio.negotiate(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    expect(registers.hints).toBe(false);
    virtio.driverOk();
    expect(registers.hints).toBe(true);
  });

  it('P2, P3 takes a poison before the driver is ready, and none afterwards', () => {
    const { registers, virtio } = makeRegisters();
    virtio.negotiate(VIRTIO_BALLOON_F_PAGE_POISON);
    virtio.write('poison_val', 0xaaaa_aaaa);
    expect(registers.poison).toBeUndefined();
    virtio.driverOk();
    expect(registers.poison).toBe(0xaaaa_aaaa);
    virtio.write('poison_val', 0);
    expect(registers.poison).toBe(0xaaaa_aaaa);
    expect(registers.latePoisons).toBe(1);
  });

  it('P5 has a poison of 0 where 0 was negotiated, and none where nothing was', () => {
    const { registers, virtio } = makeRegisters();
    virtio.driverOk();
    expect(registers.poison).toBeUndefined();
    virtio.negotiate(VIRTIO_BALLOON_F_PAGE_POISON);
    expect(registers.poison).toBe(0);
  });

  it('changes the register first and interrupts then, and interrupts no driver that is not ready', () => {
    const { registers, virtio } = makeRegisters();
    registers.requestReport(7);
    expect(virtio.asked).toEqual([]);
    virtio.driverOk();
    const seen: number[] = [];
    virtio.notify_config_changes = () => seen.push(virtio.read('free_page_hint_cmd_id'));
    registers.requestReport(8);
    registers.requestStop();
    registers.requestDone();
    registers.withdrawDone();
    expect(seen).toEqual([8, 0, 1, 0]);
    virtio.notify_config_changes = () => seen.push(virtio.read('num_pages'));
    registers.requestBallooning(1234);
    expect(seen.at(-1)).toBe(1234);
  });

  it('V8 leaves the id as it is when the balloon is resized', () => {
    const { registers, virtio } = makeRegisters();
    virtio.driverOk();
    registers.requestReport(9);
    registers.requestBallooning(5);
    expect(virtio.read('free_page_hint_cmd_id')).toBe(9);
  });

  it('takes of the driver what is its to write, and nothing else', () => {
    const { registers, virtio } = makeRegisters();
    registers.requestBallooning(5);
    registers.requestReport(6);
    virtio.write('num_pages', 77);
    virtio.write('free_page_hint_cmd_id', 77);
    virtio.write('actual', 3);
    expect([registers.numPages, registers.cmdId, registers.actual]).toEqual([5, 6, 3]);
  });

  it('counts each exit on the account of what it is for', () => {
    const { registers, virtio, heard } = makeRegisters();
    virtio.read('num_pages');
    virtio.read('free_page_hint_cmd_id');
    virtio.write('actual', 1);
    virtio.write('poison_val', 0);
    for (const queue of [0, 1, 2, 3, 3]) {
      virtio.kick(queue);
    }
    expect(heard).toEqual(['kick 0', 'kick 1', 'kick 2', 'kick 3', 'kick 3']);
    expect(registers.exits).toEqual({
      setup: { configReads: 0, configWrites: 1, kicks: 0 },
      shared: { configReads: 0, configWrites: 0, kicks: 0 },
      reporting: { configReads: 1, configWrites: 0, kicks: 2 },
      ballooning: { configReads: 1, configWrites: 1, kicks: 2 },
      other: { configReads: 0, configWrites: 0, kicks: 1 },
    });
  });

  it('knows where a queue lies once it is there and the driver is ready', () => {
    const { registers, virtio } = makeRegisters();
    // As v86 has it: 32 bits with a sign.
    Object.assign(virtio.queues[3]!, { size: 64, desc_addr: -4096, avail_addr: 0x2000, used_addr: 0x3000 });
    expect(registers.queue(3)).toBeUndefined();
    virtio.queues[3]!.enabled = true;
    expect(registers.queue(3)).toBeUndefined();
    virtio.driverOk();
    expect(registers.queue(3)).toEqual({ size: 64, descGpa: 0xffff_f000, availGpa: 0x2000, usedGpa: 0x3000 });
    expect(registers.queue(0)).toBeUndefined();
    expect(registers.queue(17)).toBeUndefined();
  });

  it('V12 forgets everything when the driver resets it, and says so afterwards', () => {
    const { registers, virtio, heard } = makeRegisters();
    virtio.negotiate(VIRTIO_BALLOON_F_PAGE_POISON, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    virtio.write('poison_val', 5);
    virtio.driverOk();
    registers.requestReport(6);
    registers.requestBallooning(7);
    virtio.write('actual', 7);
    virtio.reset();
    expect(heard).toEqual(['reset']);
    expect(virtio.asked).toContain('reset');
    expect(registers.save()).toEqual([0, 0, 0, 0]);
    expect([registers.driven, registers.hints, registers.poison]).toEqual([false, false, undefined]);
  });
});
