'use strict';
// Colours of clusters: stable for each label, and distinguishable for many labels.

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
};

/** OKLCH to sRGB (Ottosson 2020), channels from 0 to 1, perhaps outside. */
function oklch(lightness, chroma, degrees) {
  const a = chroma * Math.cos((degrees * Math.PI) / 180);
  const b = chroma * Math.sin((degrees * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((c) => (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055));
}

/** The nearest colour of that lightness and hue that a screen can show. */
function shown(lightness, chroma, degrees) {
  let rgb = oklch(lightness, chroma, degrees);
  for (let c = chroma; c > 0 && rgb.some((v) => v < 0 || v > 1); c -= 0.01) rgb = oklch(lightness, c, degrees);
  return rgb.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))));
}

// The golden angle never comes back near a recent hue; lightness and chroma take turns, so that labels whose hues
// are close after one round (21 labels apart) still differ.
const GOLDEN_ANGLE = 137.50776;
const STEPS = {
  light: [
    [0.6, 0.19],
    [0.47, 0.14],
    [0.72, 0.15],
  ],
  dark: [
    [0.74, 0.16],
    [0.6, 0.19],
    [0.86, 0.11],
  ],
};
const GREY = {
  light: [
    [0.9, 0],
    [0.74, 0],
  ],
  dark: [
    [0.3, 0],
    [0.47, 0],
  ],
}; // not seen, noise

const colours = new Map();

/** Red, green and blue of a label code, from 0 to 255. */
function rgbOf(code) {
  const theme = isDark() ? 'dark' : 'light';
  const key = `${theme} ${code}`;
  if (!colours.has(key)) {
    const label = labelOf(code);
    const [lightness, chroma] = label < 0 ? GREY[theme][code] : STEPS[theme][label % 3];
    colours.set(key, shown(lightness, chroma, 30 + GOLDEN_ANGLE * label));
  }
  return colours.get(key);
}

/** The colour of a code, which its legend may share with others. */
const css = (code, legend) => `rgb(${rgbOf(tintOf(code, legend)).join(' ')})`;

function swatch(code, legend) {
  return h('span', { class: 'swatch', style: { '--colour': css(code, legend) } });
}

/** Little-endian RGBA, as ImageData has it. */
const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

function blended(front, back, share) {
  return front.map((value, i) => Math.round(share * value + (1 - share) * back[i]));
}

/** The colour behind an element's content, as [r, g, b]. */
function backgroundOf(element) {
  const numbersOf = getComputedStyle(element)
    .backgroundColor.match(/[\d.]+/g)
    .map(Number);
  return numbersOf.slice(0, 3);
}
