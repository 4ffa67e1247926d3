import { readFileSync } from 'node:fs';
import type { BenchReport } from '../schema.js';
import { sweepCharts } from '../sweep.js';

/** A file that `npm run build` made of `client/` and of `style.css`. */
function built(name: string): string {
  return readFileSync(new URL(name, import.meta.url), 'utf8');
}

/** JSON that can stand in a script element: no "</script>" and no "<!--" in it. */
function inScript(report: BenchReport): string {
  return JSON.stringify(report).replaceAll('<', '\\u003c');
}

/** The curves of a sweep, as a picture that is part of the page; empty for another report. */
function curves(report: BenchReport): string {
  const svg = report.sweep === null ? undefined : sweepCharts(report, report.sweep);
  return svg === undefined ? '' : `data:image/svg+xml;base64,${Buffer.from(svg).toString('base64')}`;
}

/**
 * A report as one HTML file that needs nothing else: no network, no other file. All of its numbers stand in it as JSON, and
 * the page is made from them by its script (`client/main.ts`).
 */
export function htmlReport(report: BenchReport): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="generator" content="lacuna ${report.machine.lacuna}">
<title>lacuna: what free page reporting saves</title>
<style>${built('style.css')}</style>
</head>
<body>
<noscript>This report draws its charts with a script of its own. Its numbers stand in this file as JSON, in the element "report".</noscript>
<template id="curves" data-source="${curves(report)}"></template>
<script type="application/json" id="report">${inScript(report)}</script>
<script>${built('client/main.js')}</script>
</body>
</html>
`;
}
