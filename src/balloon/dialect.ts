/** The two dialects in which a host and its guest's balloon driver speak of free pages. */
export const DIALECTS = ['command-register', 'virtio'] as const;
/**
 * - `command-register`: the mail's. One register says what is requested, and requests are acknowledged.
 * - `virtio`: that of VIRTIO 1.3 § 5.5, which Linux's driver speaks. What is wanted is read from the config space at every
 *   config interrupt; hints end with DONE.
 */
export type Dialect = (typeof DIALECTS)[number];
