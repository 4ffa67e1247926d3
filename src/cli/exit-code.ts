/** Exit codes of the commands, as their help says. */
export const ExitCode = {
  ok: 0,
  verificationFailed: 1,
  usage: 2,
  /** `lacuna send`: a commit was sent, and never answered. */
  unanswered: 3,
  interrupted: 130,
} as const;
