#!/usr/bin/env node
import { handleInterrupts } from './interrupts.js';
import { run } from './program.js';

const interrupt = new AbortController();
// The first time the migration is called off and everything put back.
handleInterrupts(() => interrupt.abort());

process.exitCode = await run(process.argv.slice(2), interrupt.signal);
