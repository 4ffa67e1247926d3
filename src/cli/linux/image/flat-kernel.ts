/**
 * A bzImage's code unpacks the kernel before it starts it: in an emulator that takes as long as all the rest of the boot.
 * Here that is done beforehand. The image keeps its setup code, which asks the BIOS what the machine is; behind it stands the
 * kernel as it is to lie in memory, and before that, in place of what unpacks it, a few instructions that copy it there:
 *
 *     bzImage     | setup sectors | code that unpacks | kernel (xz) |
 *     flat        | setup sectors | FLAT_START        | kernel, its segments where they belong |
 *                                 ^ loaded at 1 MiB     copied to 16 MiB, and entered there
 *
 * References: Documentation/arch/x86/boot.rst (the header, "Running the Kernel", the 32-bit boot protocol); ELF-32.
 */

/** Where a boot loader puts what follows the setup sectors, and where the setup code enters it (`code32_start`). */
const LOADED_GPA = 0x10_0000;
const SECTOR = 512;
/** Room for {@link startCode}, and where the kernel begins behind it. */
const START_BYTES = 64;

// The setup header: offsets within a bzImage.
const SETUP_SECTS = 0x1f1;
const SYSSIZE = 0x1f4;
const HEADER_MAGIC = 0x202;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const HEADER_END = 0x250;

const XZ_MAGIC = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]);
/** The kernel's build puts the unpacked size behind the stream. */
const SIZE_BYTES = 4;

/** The xz stream in a bzImage, which holds the kernel as an ELF file. Undefined if it is packed some other way. */
export function packedKernel(image: Buffer): Buffer | undefined {
  if (image.length < HEADER_END || image.toString('latin1', HEADER_MAGIC, HEADER_MAGIC + 4) !== 'HdrS') {
    return undefined;
  }
  const start = setupBytes(image) + image.readUInt32LE(PAYLOAD_OFFSET);
  const end = start + image.readUInt32LE(PAYLOAD_LENGTH);
  const payload = image.subarray(start, end - SIZE_BYTES);
  return end <= image.length && payload.subarray(0, XZ_MAGIC.length).equals(XZ_MAGIC) ? payload : undefined;
}

/**
 * A bzImage with its kernel unpacked, from the packed one and the ELF file that was in it. Undefined if that is no 32-bit
 * kernel, or so large that it would lie where it is to be copied to: it has to be unpacked in the guest, then.
 */
export function flatKernel(image: Buffer, elf: Buffer): Buffer | undefined {
  const program = loadedProgram(elf);
  if (program === undefined || LOADED_GPA + START_BYTES + program.bytes.length > program.startGpa) {
    return undefined;
  }
  const setup = Buffer.from(image.subarray(0, setupBytes(image)));
  const flat = Buffer.concat([setup, startCode(program), program.bytes]);
  // In units of 16 bytes.
  flat.writeUInt32LE(Math.ceil((flat.length - setup.length) / 16), SYSSIZE);
  return flat;
}

function setupBytes(image: Buffer): number {
  // 0 means 4, says the boot protocol; and the boot sector comes before them.
  return ((image[SETUP_SECTS]! || 4) + 1) * SECTOR;
}

/** A program as it lies in memory before it runs. */
interface LoadedProgram {
  readonly startGpa: number;
  readonly entryGpa: number;
  /** Whole words. */
  readonly bytes: Buffer;
}

const ELF_MAGIC = '\x7fELF';
const ELFCLASS32 = 1;
const ELFDATA2LSB = 1;
const EM_386 = 3;
const PT_LOAD = 1;

/** The segments of an ELF file where they belong. What they have more of in memory is the kernel's to clear. */
function loadedProgram(elf: Buffer): LoadedProgram | undefined {
  if (
    elf.length < 52 ||
    elf.toString('latin1', 0, 4) !== ELF_MAGIC ||
    elf[4] !== ELFCLASS32 ||
    elf[5] !== ELFDATA2LSB ||
    elf.readUInt16LE(18) !== EM_386
  ) {
    return undefined;
  }
  const headers = elf.readUInt32LE(28);
  const headerBytes = elf.readUInt16LE(42);
  const segments = Array.from({ length: elf.readUInt16LE(44) }, (_, index) => {
    const at = headers + index * headerBytes;
    return {
      type: elf.readUInt32LE(at),
      offset: elf.readUInt32LE(at + 4),
      gpa: elf.readUInt32LE(at + 12),
      length: elf.readUInt32LE(at + 16),
    };
  }).filter(({ type, length }) => type === PT_LOAD && length > 0);
  if (segments.length === 0 || segments.some(({ offset, length }) => offset + length > elf.length)) {
    return undefined;
  }
  const startGpa = Math.min(...segments.map(({ gpa }) => gpa));
  const endGpa = Math.max(...segments.map(({ gpa, length }) => gpa + length));
  const bytes = Buffer.alloc(Math.ceil((endGpa - startGpa) / 4) * 4);
  for (const { gpa, offset, length } of segments) {
    elf.copy(bytes, gpa - startGpa, offset, offset + length);
  }
  return { startGpa, entryGpa: elf.readUInt32LE(24), bytes };
}

/**
 * Copies the kernel to its place and enters it. It is entered in 32-bit mode without paging, all segments from 0 to 4 GiB,
 * with the boot parameters in esi, which the kernel expects there too.
 */
function startCode({ startGpa, entryGpa, bytes }: LoadedProgram): Buffer {
  const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
  const code = [
    [0xfc], // cld
    [0x89, 0xf3], // mov ebx, esi
    [0xbe, ...word(LOADED_GPA + START_BYTES)], // mov esi, …
    [0xbf, ...word(startGpa)], // mov edi, …
    [0xb9, ...word(bytes.length / 4)], // mov ecx, …
    [0xf3, 0xa5], // rep movsd
    [0x89, 0xde], // mov esi, ebx
    [0x31, 0xdb], // xor ebx, ebx
    [0x31, 0xed], // xor ebp, ebp
    [0x31, 0xff], // xor edi, edi
    [0xb8, ...word(entryGpa)], // mov eax, …
    [0xff, 0xe0], // jmp eax
  ].flat();
  return Buffer.concat([Buffer.from(code), Buffer.alloc(START_BYTES - code.length)]);
}
