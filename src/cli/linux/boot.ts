import type { LinuxImage } from './image/linux-image.js';

/** The options of v86's constructor that an image decides. */
export interface BootOptions {
  readonly bios: { readonly buffer: ArrayBuffer };
  readonly vga_bios: { readonly buffer: ArrayBuffer };
  readonly bzimage: { readonly buffer: ArrayBuffer };
  readonly initrd: { readonly buffer: ArrayBuffer };
  readonly cmdline: string;
}

/** What v86 boots from. */
export function bootOptions({ bios, vgaBios, kernel, initrd, cmdline }: LinuxImage): BootOptions {
  return {
    bios: { buffer: bios },
    vga_bios: { buffer: vgaBios },
    bzimage: { buffer: kernel },
    initrd: { buffer: initrd },
    cmdline,
  };
}

/** What {@link keepBootable} needs of v86's processor. */
export interface RebootingCpu {
  readonly mem8: Uint8Array;
  write_blob(bytes: Uint8Array, gpa: number): void;
  reboot_internal(): void;
}

// Where v86 puts a kernel: setup code and command line, what follows the setup sectors, and the initrd.
const SETUP_START = 0x8_0000;
const SETUP_END = 0x9_0000;
const KERNEL = 0x10_0000;
const INITRD = 0x400_0000;
/** In a bzImage: how many sectors of setup code follow the boot sector. */
const SETUP_SECTS = 0x1f1;

/**
 * Lets the guest reboot. V86 puts the kernel into memory once, when it is constructed, where Linux writes over it; a guest
 * that reboots then would start what is left of it. From here on it is put there again before the BIOS runs. To be called
 * after `emulator-loaded` and before the guest runs or a state is restored, at a destination too.
 */
export function keepBootable(cpu: RebootingCpu, { kernel, initrd }: LinuxImage): void {
  // V86 has filled in the setup header.
  const setup = cpu.mem8.slice(SETUP_START, SETUP_END);
  const image = new Uint8Array(kernel);
  const code = image.subarray(((image[SETUP_SECTS]! || 4) + 1) * 512);
  const reboot = cpu.reboot_internal.bind(cpu);
  cpu.reboot_internal = () => {
    reboot();
    cpu.write_blob(setup, SETUP_START);
    cpu.write_blob(code, KERNEL);
    cpu.write_blob(new Uint8Array(initrd), INITRD);
  };
}
