import { execFileSync } from 'node:child_process';

/**
 * Node 20 can't load a `.ts` file as a worker, so tests that start threads use the built ones. Built once, before
 * any test runs.
 */
export default function build(): void {
  execFileSync('npm', ['run', '--silent', 'build'], { stdio: ['ignore', 'inherit', 'inherit'] });
}
