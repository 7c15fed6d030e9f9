/**
 * The timeline as a widget of the node "Storyboard timeline (alchemint)".
 *
 * The node's own text field holds the storyboard, as JSON: workflows save it, the API sets it, and the timeline reads
 * and writes it. The timeline script comes from the installed package alchemint, through routes of the node package.
 */

import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';

const NODE = 'AlchemintTimeline';
const TEXT = 'storyboard';
const FOLDER = 'alchemint';
/** Where the timeline still has room for names beside the lanes. */
const LEAST_WIDTH = 820;
const LEAST_HEIGHT = 320;
const MOST_HEIGHT = 960;
/** Pixels around the timeline: padding, the foot and the gap above it. */
const FRAME = 72;
/** Seconds that bars snap to until the node's property says otherwise: one latent frame of Wan, 4 frames at 16 fps. */
const SNAP_S = 0.25;

/** Keys and gestures that are the timeline's, and would delete or copy nodes if the canvas saw them. */
const KEPT = ['keydown', 'keyup', 'keypress', 'copy', 'cut', 'paste', 'dragenter', 'dragover', 'drop', 'wheel'];

let script = null;

function timelineScript() {
  script ??= import(api.apiURL('/alchemint/timeline.js')).catch((error) => {
    script = null;
    throw error;
  });
  return script;
}

function addStyle() {
  if (document.getElementById('alchemint-timeline-style')) return;
  const link = document.createElement('link');
  link.id = 'alchemint-timeline-style';
  link.rel = 'stylesheet';
  link.href = api.apiURL('/alchemint/timeline.css');
  const own = document.createElement('link');
  own.rel = 'stylesheet';
  own.href = new URL('./alchemint.css', import.meta.url).href;
  document.head.append(link, own);
}

function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/**
 * Return where ComfyUI shows a picture of its input folder.
 * @param {string} id The picture's name in a storyboard: its path below that folder.
 * @returns {string}
 */
export function pictureUrl(id) {
  const cut = id.lastIndexOf('/');
  const place = { filename: id.slice(cut + 1), subfolder: cut < 0 ? '' : id.slice(0, cut), type: 'input' };
  return api.apiURL(`/view?${new URLSearchParams(place)}`);
}

/**
 * Put a picture into ComfyUI's input folder.
 * @param {File} file
 * @returns {Promise<{id: string, url: string}>} Its name in a storyboard, and where it is shown.
 */
export async function upload(file) {
  const body = new FormData();
  body.append('image', file);
  body.append('subfolder', FOLDER);
  body.append('type', 'input');
  const response = await api.fetchApi('/upload/image', { method: 'POST', body });
  if (response.status !== 200) {
    throw new Error(`ComfyUI did not take ${file.name}: ${response.status} ${response.statusText}`);
  }
  const { name, subfolder } = await response.json();
  const id = subfolder ? `${subfolder}/${name}` : name;
  return { id, url: pictureUrl(id) };
}

/** Read a storyboard; throws for what is no JSON object. */
function parsed(text) {
  const storyboard = JSON.parse(text);
  if (storyboard === null || typeof storyboard !== 'object' || Array.isArray(storyboard)) {
    throw new SyntaxError('a storyboard must be keys with values');
  }
  return storyboard;
}

function hide(widget) {
  widget.hidden = true;
  widget.options ??= {};
  widget.options.hidden = true;
  widget.computeSize = () => [0, -4];
  for (const field of [widget.element, widget.inputEl]) {
    if (field) field.hidden = true;
  }
}

/** The timeline of one node, and the text field's content as text beside it. */
class TimelineWidget {
  constructor(node, text) {
    this.node = node;
    this.text = text;
    this.timeline = null;
    this.isGone = false;
    this.height = LEAST_HEIGHT;
    this.resize = new ResizeObserver(() => this.fit());
    this.root = element('div', 'alchemint-node');
    this.root.dataset.theme = document.body.classList.contains('dark-theme') ? 'dark' : 'light';
    this.place = element('div', 'alchemint-node-place');
    this.raw = element('textarea', 'alchemint-node-raw');
    this.raw.setAttribute('aria-label', 'storyboard as JSON');
    this.raw.spellcheck = false;
    this.raw.hidden = true;
    this.switch = element('button', 'alchemint-node-switch', 'Show JSON');
    this.switch.type = 'button';
    this.fault = element('p', 'alchemint-node-fault');
    this.fault.setAttribute('role', 'alert');
    const foot = element('div', 'alchemint-node-foot');
    foot.append(this.switch, this.fault);
    this.root.append(this.place, this.raw, foot);
    for (const name of KEPT) this.root.addEventListener(name, (event) => event.stopPropagation());
    this.switch.addEventListener('click', () => this.showRaw(this.raw.hidden));
    this.raw.addEventListener('change', () => this.write(this.raw.value));
  }

  /** Show what the node's text field holds, whoever has set it. */
  async show() {
    const value = this.text.value;
    this.raw.value = value;
    let storyboard;
    try {
      storyboard = parsed(value);
    } catch (error) {
      this.fault.textContent = `This is no storyboard: ${error.message}. Correct the JSON.`;
      this.showRaw(true);
      return;
    }
    this.fault.textContent = '';
    try {
      await this.mount(storyboard);
    } catch (error) {
      this.fault.textContent = `The timeline cannot be shown: ${error.message}. Edit the JSON.`;
      this.showRaw(true);
    }
  }

  async mount(storyboard) {
    if (this.timeline) {
      this.timeline.set(storyboard);
      return;
    }
    const { mountTimeline } = await timelineScript();
    if (this.isGone) return;
    if (this.timeline) {
      await this.show();
      return;
    }
    this.timeline = mountTimeline(this.place, {
      storyboard,
      step: this.node.properties?.snap_s > 0 ? this.node.properties.snap_s : SNAP_S,
      prompt: true,
      pictureUrl,
      upload,
      onChange: (changed) => this.write(JSON.stringify(changed), false),
    });
    this.resize.observe(this.place.firstElementChild);
    // The text field may have been set while the script was on its way.
    if (this.text.value !== this.raw.value) await this.show();
  }

  /** Put a storyboard into the node's text field; with `shows` the timeline is to follow. */
  write(value, shows = true) {
    this.isWriting = true;
    this.text.value = value;
    this.text.callback?.(value);
    this.isWriting = false;
    this.raw.value = value;
    this.node.graph?.setDirtyCanvas?.(true, true);
    if (shows) this.show();
  }

  /** Grow the node with the timeline; one that the user has made higher stays so. */
  fit() {
    const content = this.place.firstElementChild.offsetHeight;
    if (!content) return;
    const height = Math.min(MOST_HEIGHT, Math.max(LEAST_HEIGHT, content + FRAME));
    if (height === this.height) return;
    this.height = height;
    const [width, least] = this.node.computeSize();
    this.node.setSize([Math.max(this.node.size[0], width), Math.max(this.node.size[1], least)]);
    this.node.graph?.setDirtyCanvas?.(true, true);
  }

  showRaw(isRaw) {
    this.raw.hidden = !isRaw;
    this.place.hidden = isRaw;
    this.switch.textContent = isRaw ? 'Show timeline' : 'Show JSON';
    if (!isRaw && this.fault.textContent) this.show();
  }

  remove() {
    this.isGone = true;
    this.resize.disconnect();
    this.timeline?.destroy();
  }
}

/** Call `then` after a method of an object, which may be missing. */
function after(object, method, then) {
  const first = object[method];
  object[method] = function (...values) {
    const result = first?.apply(this, values);
    then();
    return result;
  };
}

/**
 * Give a node its timeline.
 * @param {object} node A new node of ComfyUI's graph.
 */
export function addTimeline(node) {
  const text = node.widgets?.find((widget) => widget.name === TEXT);
  if (!text) return;
  addStyle();
  hide(text);
  node.properties ??= {};
  node.properties.snap_s ??= SNAP_S;
  const timeline = new TimelineWidget(node, text);
  const widget = node.addDOMWidget('timeline', 'alchemint_timeline', timeline.root, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => text.value,
    setValue: () => {},
    getMinHeight: () => timeline.height,
  });
  widget.serialize = false;
  if (node.size[0] < LEAST_WIDTH) node.setSize([LEAST_WIDTH, Math.max(node.size[1], node.computeSize()[1])]);
  after(node, 'onConfigure', () => timeline.show());
  after(node, 'onRemoved', () => timeline.remove());
  after(text, 'callback', () => timeline.isWriting || timeline.show());
  timeline.show();
}

app.registerExtension({
  name: 'alchemint.timeline',
  nodeCreated(node) {
    if (node.comfyClass === NODE) addTimeline(node);
  },
});
