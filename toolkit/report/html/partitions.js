'use strict';
// Two labellings against each other, over the page rows.

/**
 * Contingency table of two labellings, rows that either has not seen left out; noise counts as one more group.
 *
 * Sparse, since two models may have thousands of clusters each: `cells` has [code, code, rows] where there are rows,
 * `first` and `second` map the codes of either model to rows, all ascending by code.
 */
function contingency(codesA, codesB) {
  const width = 1 + codesB.reduce((most, code) => Math.max(most, code), 0);
  const counts = new Map();
  for (let i = 0; i < codesA.length; i += 1) {
    if (codesA[i] === UNSEEN_CODE || codesB[i] === UNSEEN_CODE) continue;
    const key = codesA[i] * width + codesB[i];
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const sorted = [...counts].sort(([a], [b]) => a - b);
  const cells = sorted.map(([key, count]) => [Math.floor(key / width), key % width, count]);
  const second = [...sumsOf(cells, 1)].sort(([a], [b]) => a - b);
  return { cells, first: sumsOf(cells, 0), second: new Map(second) };
}

function sumsOf(cells, side) {
  const sums = new Map();
  for (const cell of cells) sums.set(cell[side], (sums.get(cell[side]) ?? 0) + cell[2]);
  return sums;
}

const pairs = (n) => (n * (n - 1)) / 2;
const total = (counts) => counts.reduce((sum, count) => sum + count, 0);
const totalPairs = (sums) => total([...sums.values()].map(pairs));

/** Adjusted Rand index (Hubert & Arabie 1985) from a contingency table. */
function adjustedRand({ cells, first, second }) {
  const together = total(cells.map(([, , count]) => pairs(count)));
  const all = pairs(total([...first.values()]));
  const expected = all ? (totalPairs(first) * totalPairs(second)) / all : 0;
  const most = (totalPairs(first) + totalPairs(second)) / 2;
  return most === expected ? 1 : (together - expected) / (most - expected); // two trivial partitions are equal
}

/**
 * Tints of the second labelling's codes, matched to the first's one to one: the pair that shares the most rows first.
 * Groups without a partner get tints that the first labelling does not use. Noise is noise on both sides.
 */
function matchedTints(cells, { codesA, codesB, legendA, legendB }) {
  const shared = new Map();
  const taken = new Set([...new Set(codesA)].map((code) => tintOf(code, legendA)));
  for (const [a, b, count] of cells) {
    const [tintA, tintB] = [tintOf(a, legendA), tintOf(b, legendB)];
    if (a === NOISE_CODE || b === NOISE_CODE) continue;
    const key = `${tintA} ${tintB}`;
    const known = shared.get(key);
    if (known) known[2] += count;
    else shared.set(key, [tintA, tintB, count]);
  }
  const partners = new Map([UNSEEN_CODE, NOISE_CODE].map((code) => [code, code]));
  const used = new Set();
  for (const [a, b] of [...shared.values()].sort((p, q) => q[2] - p[2] || p[0] - q[0] || p[1] - q[1])) {
    if (used.has(a) || partners.has(b)) continue;
    used.add(a);
    partners.set(b, a);
  }
  let free = NOISE_CODE + 1;
  const tints = new Map();
  for (const code of new Set(codesB)) {
    const tint = tintOf(code, legendB);
    if (!partners.has(tint)) {
      while (taken.has(free)) free += 1;
      taken.add(free);
      partners.set(tint, free);
    }
    tints.set(code, partners.get(tint));
  }
  return tints;
}

/** What of a table is shown: the largest groups of the first, each of the second near the one it overlaps most. */
function shownPart({ cells, first, second }, limit) {
  const largest = (sums) => [...sums].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, limit);
  const rows = largest(first).map(([code]) => code);
  const counts = new Map(cells.map(([a, b, count]) => [`${a},${b}`, count]));
  const countAt = (a, b) => counts.get(`${a},${b}`) ?? 0;
  const home = (b) => rows.reduce((best, a, place) => (countAt(a, b) > countAt(rows[best], b) ? place : best), 0);
  const homes = new Map(largest(second).map(([code]) => [code, home(code)]));
  const columnCodes = [...homes.keys()].sort((a, b) => homes.get(a) - homes.get(b) || second.get(b) - second.get(a));
  return { rows, columnCodes, countAt };
}
