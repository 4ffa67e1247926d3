import { useDialect } from '../support/machine.js';

useDialect('virtio');

// The rows of page-poison.test.ts once more, each in VIRTIO's dialect where it is one of both.
await import('./page-poison.test.js');
