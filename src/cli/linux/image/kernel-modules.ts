import { LacunaError } from '../../../errors.js';

/** The modules that `wanted` names need, themselves last: the order in which insmod takes them. */
export function moduleOrder(
  wanted: readonly string[],
  modules: ReadonlyMap<string, Uint8Array>,
  builtIn: ReadonlySet<string> = new Set(),
): string[] {
  const order: string[] = [];
  const visit = (name: string, path: readonly string[]): void => {
    if (order.includes(name) || builtIn.has(name)) {
      return;
    }
    const module = modules.get(name);
    if (module === undefined) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `the kernel has no module ${name}${path.length > 0 ? `, which ${path.at(-1)} needs` : ''}: bring another kernel, with its initrd`,
      );
    }
    if (path.includes(name)) {
      throw new LacunaError(
        'INVALID_ARGUMENT',
        `the kernel's modules need each other in a circle: ${[...path, name].join(', ')}`,
      );
    }
    for (const needed of moduleDependencies(module)) {
      visit(needed, [...path, name]);
    }
    order.push(name);
  };
  for (const name of wanted) {
    visit(name, []);
  }
  return order;
}

/**
 * The names that a module says it depends on, in its `.modinfo`: "depends=virtio,virtio_ring". Debian's packages come
 * without a modules.dep, which depmod makes where they are installed.
 */
export function moduleDependencies(module: Uint8Array): string[] {
  const found = /\0depends=([\w,-]*)\0/.exec(Buffer.from(module).toString('latin1'));
  return found === null || found[1] === '' ? [] : found[1]!.split(',').map(moduleName);
}

/** A module's name as the kernel knows it, from its path or an alias: "kernel/…/virtio-rng.ko" is virtio_rng. */
export function moduleName(path: string): string {
  return path.replace(/^.*\//, '').replace(/\.ko$/, '').replaceAll('-', '_');
}

/** Names of the modules.builtin that comes with a kernel. */
export function builtInModules(text: string): Set<string> {
  return new Set(
    text
      .split('\n')
      .filter((line) => line !== '')
      .map(moduleName),
  );
}

/**
 * The version in the header of a bzImage, as in "6.1.0-50-686" (Documentation/arch/x86/boot.rst: `kernel_version` at
 * 0x20e is the offset of a text, less 0x200). Undefined if it is no bzImage.
 */
export function kernelVersion(kernel: Uint8Array): string | undefined {
  const bytes = Buffer.from(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  if (bytes.length < 0x210 || bytes.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    return undefined;
  }
  const start = bytes.readUInt16LE(0x20e) + 0x200;
  const end = bytes.indexOf(0, start);
  return end < 0 ? undefined : bytes.toString('latin1', start, end).split(' ')[0];
}
