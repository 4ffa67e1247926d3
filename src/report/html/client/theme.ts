import type { PageFate } from '../../../migration/page-fates.js';
import type { Baseline } from '../../schema.js';

/** Colours that people with any kind of colour vision tell apart (Okabe and Ito), for light and for dark paper. */
export interface Theme {
  readonly paper: string;
  readonly ink: string;
  readonly faint: string;
  readonly baselines: Readonly<Record<Baseline, string>>;
  readonly fates: Readonly<Record<PageFate, string>>;
}

const LIGHT: Theme = {
  paper: '#ffffff',
  ink: '#1b1f24',
  faint: '#d5dae0',
  baselines: { none: '#7a828c', zero: '#0072b2', hints: '#e69f00', both: '#009e73' },
  fates: {
    absent: '#ffffff',
    sent: '#0072b2',
    zero: '#8ecdf2',
    skipped: '#d9e7dd',
    filled: '#cc79a7',
    resent: '#e69f00',
    vain: '#d55e00',
  },
};

const DARK: Theme = {
  paper: '#14181d',
  ink: '#e6e9ed',
  faint: '#39424d',
  baselines: { none: '#98a1ac', zero: '#56b4e9', hints: '#e69f00', both: '#2bc79a' },
  fates: {
    absent: '#14181d',
    sent: '#2a8fd0',
    zero: '#1d5377',
    skipped: '#2a3a33',
    filled: '#cc79a7',
    resent: '#e69f00',
    vain: '#ff6d2e',
  },
};

const dark = matchMedia('(prefers-color-scheme: dark)');

export function theme(): Theme {
  return dark.matches ? DARK : LIGHT;
}

export function onThemeChange(changed: () => void): void {
  dark.addEventListener('change', changed);
}

/** What a fate is called in the report. */
export const FATE_NAMES: Readonly<Record<PageFate, string>> = {
  absent: 'no RAM here',
  sent: 'sent once',
  zero: 'zero: sent without contents',
  skipped: 'left behind: the guest said that it is free',
  filled: 'filled at the destination',
  resent: 'sent more than once',
  vain: 'sent in vain, although it was free',
};
