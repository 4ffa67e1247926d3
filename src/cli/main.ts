#!/usr/bin/env node
import { run } from './program.js';

const interrupt = new AbortController();
// The first time the migration is called off and everything put back; a second time is the user's impatience.
process.once('SIGINT', () => interrupt.abort());
process.once('SIGTERM', () => interrupt.abort());

process.exitCode = await run(process.argv.slice(2), interrupt.signal);
