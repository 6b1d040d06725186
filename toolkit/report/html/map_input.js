'use strict';
// What the pointer and the keys do on a map.

const MODES = [
  ['pan', 'Pan', 'Drag to move'],
  ['box', 'Box', 'Drag to select in a box (also with Shift)'],
  ['lasso', 'Lasso', 'Drag around rows to select them'],
];

function mapTools(view) {
  const modes = MODES.map(([mode, text, hint]) =>
    h(
      'button',
      {
        type: 'button',
        title: hint,
        'data-mode': mode,
        'aria-pressed': String(mode === view.mode),
        onclick: () => setMode(view, mode),
      },
      text,
    ),
  );
  const button = (text, label, act) =>
    h('button', { type: 'button', 'aria-label': label, title: label, onclick: act }, text);
  const toggle = (text, property) =>
    h(
      'label',
      { class: 'check' },
      h('input', {
        type: 'checkbox',
        checked: view[property],
        'data-toggle': property,
        onchange: (event) => {
          view[property] = event.target.checked;
          view.recolour();
        },
      }),
      text,
    );
  view.tools = h(
    'div',
    { class: 'map-tools', role: 'group', 'aria-label': 'Map tools' },
    h('div', { class: 'segments' }, modes),
    h(
      'div',
      { class: 'segments' },
      button('+', 'Zoom in', () => view.camera.zoomBy(1.5)),
      button('−', 'Zoom out', () => view.camera.zoomBy(1 / 1.5)),
      button('Reset', 'Show the whole map', () => view.camera.reset()),
    ),
    toggle('Numbers', 'showNumbers'),
    toggle('Noise', 'showNoise'),
    toggle('Rows not seen', 'showUnseen'),
  );
  return view.tools;
}

function setMode(view, mode) {
  view.mode = mode;
  view.frame.dataset.mode = mode;
  for (const button of view.tools.querySelectorAll('[data-mode]')) {
    button.setAttribute('aria-pressed', String(button.dataset.mode === mode));
  }
}

function offset(view, event) {
  const box = view.canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function attachPointer(view) {
  const { canvas } = view;
  let drag = null;
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || !view.places) return;
    canvas.setPointerCapture(event.pointerId);
    const start = offset(view, event);
    drag = {
      mode: event.shiftKey && view.mode === 'pan' ? 'box' : view.mode,
      start,
      last: start,
      trail: [start],
      far: false,
    };
    hideTooltip();
  });
  canvas.addEventListener('pointermove', (event) => {
    const at = offset(view, event);
    if (drag) continueDrag(view, drag, at);
    else hover(view, at, event);
  });
  canvas.addEventListener('pointerup', () => {
    if (drag) endDrag(view, drag);
    drag = null;
  });
  canvas.addEventListener('pointercancel', () => {
    drag = null;
    view.overlay.replaceChildren();
  });
  canvas.addEventListener('pointerleave', () => {
    hideTooltip();
    if (!drag) view.overlay.replaceChildren();
  });
  canvas.addEventListener('dblclick', () => view.camera.reset());
  canvas.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault();
      const at = offset(view, event);
      const units = view.unitsAt(at.x, at.y);
      view.camera.zoomBy(Math.exp(-event.deltaY * 0.0016), units.x, units.y);
    },
    { passive: false },
  );
}

function continueDrag(view, drag, at) {
  drag.far ||= Math.hypot(at.x - drag.start.x, at.y - drag.start.y) > 4;
  if (!drag.far) return;
  if (drag.mode === 'pan') {
    const from = view.unitsAt(drag.last.x, drag.last.y);
    const to = view.unitsAt(at.x, at.y);
    view.camera.panBy(from.x - to.x, from.y - to.y);
  } else {
    drag.trail.push(at);
    view.overlay.replaceChildren(
      svg('path', {
        class: 'lasso',
        d: `M${outline(drag, at)
          .map(({ x, y }) => `${x},${y}`)
          .join('L')}Z`,
      }),
    );
  }
  drag.last = at;
}

function outline({ mode, start, trail }, at) {
  if (mode === 'lasso') return trail;
  return [start, { x: at.x, y: start.y }, at, { x: start.x, y: at.y }];
}

function endDrag(view, drag) {
  view.overlay.replaceChildren();
  if (!drag.far) {
    const position = view.rowAt(drag.start.x, drag.start.y);
    if (position !== null) selectRows([position]);
  } else if (drag.mode !== 'pan') {
    const corners = outline(drag, drag.last).map(({ x, y }) => view.unitsAt(x, y));
    selectRows(view.rowsInside((x, y) => isInside(corners, x, y)));
  }
}

/** Even-odd rule: a ray to the right crosses the outline an odd number of times. */
function isInside(corners, x, y) {
  let inside = false;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i, i += 1) {
    const a = corners[i];
    const b = corners[j];
    if (a.y > y !== b.y > y && x < ((b.x - a.x) * (y - a.y)) / (b.y - a.y) + a.x) inside = !inside;
  }
  return inside;
}

function hover(view, at, event) {
  const position = view.rowAt(at.x, at.y);
  view.overlay.replaceChildren();
  if (position === null) {
    hideTooltip();
    return;
  }
  const { x, y } = view.locate(position);
  view.overlay.append(svg('circle', { class: 'ring', cx: x, cy: y, r: 7 }));
  showTooltip(position, view.codes?.[position], view.legend, event);
}

function attachKeys(view) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  view.canvas.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      const step = (60 * devicePixelRatio) / view.transform().scale;
      const [dx, dy] = moves[event.key];
      view.camera.panBy(dx * step, dy * step);
    } else if (event.key === '+' || event.key === '=') view.camera.zoomBy(1.4);
    else if (event.key === '-') view.camera.zoomBy(1 / 1.4);
    else if (event.key === '0' || event.key === 'Home') view.camera.reset();
    else return;
    event.preventDefault();
  });
}
