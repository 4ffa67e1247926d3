/** An element with attributes and children; `on…` attributes are listeners. Text is text: nothing is parsed as HTML. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string | ((event: Event) => void)>> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') {
      made.addEventListener(name.slice('on'.length), value);
    } else {
      made.setAttribute(name, value);
    }
  }
  made.append(...children);
  return made;
}

/** A table whose first row is the head and whose other cells are numbers, but for the first of each row. */
export function numbersTable(
  caption: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): HTMLElement {
  return element(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    element(
      'table',
      {},
      element('caption', {}, caption),
      element('thead', {}, element('tr', {}, ...head.map((text) => element('th', { scope: 'col' }, text)))),
      element(
        'tbody',
        {},
        ...rows.map((row) =>
          element(
            'tr',
            {},
            ...row.map((text, i) =>
              i === 0 ? element('th', { scope: 'row' }, text) : element('td', {}, text),
            ),
          ),
        ),
      ),
    ),
  );
}

/** What stands behind a chart, folded up: for those who want the figures, or can't see the chart. */
export function figures(table: HTMLElement): HTMLElement {
  return element('details', {}, element('summary', {}, 'The numbers'), table);
}

/** A list to choose from. `choose` gets the index. */
export function chooser(
  label: string,
  options: readonly string[],
  choose: (index: number) => void,
): HTMLElement {
  const select = element('select', {}, ...options.map((text) => element('option', {}, text)));
  select.addEventListener('change', () => choose(select.selectedIndex));
  return element('label', {}, label, ' ', select);
}
