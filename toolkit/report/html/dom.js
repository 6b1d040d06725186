'use strict';
// Elements and numbers. Everything that is shown goes through `h` or `svg`: strings become text nodes, never markup.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

const byId = (id) => document.getElementById(id);

/** Where an element with the focus is made anew, the new one of the same id gets it. */
function keepFocus(change) {
  const { id } = document.activeElement;
  change();
  if (id && document.activeElement.id !== id) byId(id)?.focus({ preventScroll: true });
}

const MISSING = '–';
const wholeFormat = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const shortFormat = new Intl.NumberFormat('en-US', { maximumSignificantDigits: 3 });
const alignedFormat = new Intl.NumberFormat('en-US', { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });

/** Three significant digits, and never fewer than the digits before the point. */
function number(value) {
  if (typeof value !== 'number') return value === null || value === undefined || value === '' ? MISSING : String(value);
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return wholeFormat.format(value);
  return size < 1e-3 ? value.toExponential(1) : alignedFormat.format(value);
}

function percent(value) {
  if (typeof value !== 'number') return MISSING;
  const rounded = value >= 0.01 ? 100 * value : Number((100 * value).toPrecision(1));
  return `${rounded.toLocaleString('en-US', { maximumFractionDigits: value >= 0.01 ? 1 : 20 })}\u00a0%`;
}

function plural(count, word) {
  return `${wholeFormat.format(count)} ${word}${count === 1 ? '' : 's'}`;
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => h('option', { value }, text)));
  if (chosen !== undefined) select.value = chosen;
  return select;
}

const TITLES = {
  n_clusters: 'Clusters',
  n_noise: 'Noise',
  calinski_harabasz_score: 'Calinski-Harabasz',
  davies_bouldin_score: 'Davies-Bouldin',
};

/** Words for a column: silhouette_rows becomes Silhouette rows. */
function title(column) {
  if (column in TITLES) return TITLES[column];
  const words = column.replace(/_score$/, '').replaceAll('_', ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

const listeners = new Map();

/** Call `react` whenever `event` is announced: 'model', 'selection', 'theme' or 'filter'. */
function on(event, react) {
  listeners.set(event, [...(listeners.get(event) ?? []), react]);
}

function announce(event) {
  for (const react of listeners.get(event) ?? []) react();
}
