import { useDialect } from '../support/machine.js';

useDialect('virtio');

// The rows of hinting.test.ts once more, each in VIRTIO's dialect where it is one of both.
await import('./hinting.test.js');
