'use strict';
// Images of rows: the tooltip and tiles.

let tooltipTimer = null;
let tooltipPosition = null;

function hideTooltip() {
  clearTimeout(tooltipTimer);
  tooltipPosition = null;
  byId('tooltip').hidden = true;
}

async function showTooltip(position, code, legend, event) {
  const tooltip = byId('tooltip');
  if (position !== tooltipPosition) {
    tooltipPosition = position;
    await loadImages();
    if (tooltipPosition !== position) return; // the pointer went on in the meantime
    clearTimeout(tooltipTimer);
    tooltip.replaceChildren(
      tooltipImage(position),
      h('div', { class: 'path' }, images.paths[position]),
      h('div', { class: 'cluster-name' }, code === undefined ? null : [swatch(code, legend), codeName(code, legend)]),
    );
  }
  tooltip.hidden = false;
  placeTooltip(event);
  tooltip.querySelector('img')?.addEventListener('load', () => placeTooltip(event)); // it is higher then
}

/** Beside the pointer, inside the window. */
function placeTooltip(event) {
  const tooltip = byId('tooltip');
  const { width, height } = tooltip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const top = Math.min(event.clientY + 12, innerHeight - height - 8);
  tooltip.style.left = `${Math.max(4, left)}px`;
  tooltip.style.top = `${Math.max(4, top)}px`;
}

/** The thumbnail, or the image itself once the pointer has rested; nothing if there is none or it does not load. */
function tooltipImage(position) {
  const thumbnail = thumbnailOf(position);
  const image = h('img', { alt: '', hidden: true });
  image.addEventListener('load', () => (image.hidden = false));
  image.addEventListener('error', () => image.remove());
  if (thumbnail) image.src = thumbnail;
  else if (images.urls) tooltipTimer = setTimeout(() => (image.src = images.urls[position]), 150);
  return image;
}

function baseName(path) {
  return path.split('/').at(-1);
}

/** A tile for one row: its thumbnail or file name, leading to the image where there is a file. */
function tile(position) {
  const path = images.paths[position];
  const thumbnail = thumbnailOf(position);
  const picture = thumbnail
    ? h('img', { src: thumbnail, alt: baseName(path) })
    : h('span', { class: 'no-image' }, baseName(path));
  const attributes = { class: 'tile', title: path, 'data-position': position };
  if (!images.urls) return h('span', attributes, picture);
  return h('a', { ...attributes, href: images.urls[position], target: '_blank', rel: 'noopener' }, picture);
}

function tiles(positions) {
  return h('div', { class: 'tiles' }, positions.map(tile));
}
