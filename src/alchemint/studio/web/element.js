/** Elements made without any HTML text: what a user wrote can only ever become text. */

const SVG = 'http://www.w3.org/2000/svg';

/**
 * Make an element. A property that the element has is set; others become attributes; `on…` functions are listeners.
 * @param {string} tag
 * @param {Object<string, any>} [settings]
 * @param {...(Node|string|null|false|undefined)} children what is null, false or undefined is left out
 * @returns {HTMLElement}
 */
export function make(tag, settings = {}, ...children) {
  return filled(document.createElement(tag), settings, children);
}

/**
 * Make an SVG element; all settings are attributes.
 * @param {string} tag
 * @param {Object<string, any>} [settings]
 * @param {...Node} children
 * @returns {SVGElement}
 */
export function svg(tag, settings = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(settings)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * Make one of the icons: a path on a canvas of 16 x 16.
 * @param {keyof typeof ICONS} name
 * @returns {SVGElement}
 */
export function icon(name) {
  return svg('svg', {class: 'icon', viewBox: '0 0 16 16', 'aria-hidden': 'true'}, svg('path', {d: ICONS[name]}));
}

const ICONS = {
  play: 'M4.5 2.8v10.4L13 8z',
  pause: 'M4 3h3v10H4zM9 3h3v10H9z',
  back: 'M11.5 3v10L5.5 8zM3.2 3h1.6v10H3.2z',
  forward: 'M4.5 3v10l6-5zM11.2 3h1.6v10h-1.6z',
  loop: 'M4 4.2h6.5V2.4L13.8 5l-3.3 2.6V5.8H4.6c-.8 0-1.4.6-1.4 1.4v1H1.6v-1.6C1.6 5.3 2.7 4.2 4 4.2z'
    + 'M12 11.8H5.5v1.8L2.2 11l3.3-2.6v1.8h5.900c.8 0 1.4-.6 1.400-1.4v-1h1.600v1.600c0 1.300-1.100 2.400-2.400 2.400z',
  full: 'M2 2h5v1.700H3.700V7H2zM9 2h5v5h-1.700V3.700H9zM2 9h1.700v3.300H7V14H2zM12.300 9H14v5H9v-1.700h3.300z',
};

function filled(element, settings, children) {
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith('aria')) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
