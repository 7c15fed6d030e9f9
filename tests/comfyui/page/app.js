/**
 * As much of ComfyUI's page as an extension asks of it: `app`, nodes with widgets, and how a node is saved and loaded.
 * The page's own canvas is `window.seen`: what keys reach it, as those would delete or copy nodes.
 */

export const app = {
  extensions: [],
  registerExtension(extension) { this.extensions.push(extension); },
};

window.app = app;
window.seen = [];
for (const name of ['keydown', 'paste', 'drop', 'wheel']) {
  window.addEventListener(name, (event) => window.seen.push(event.key ?? name));
}

/** A node that has one text field of several lines, as ComfyUI makes it of a STRING input. */
class Node {
  constructor(comfyClass, input, value) {
    this.comfyClass = comfyClass;
    this.properties = {};
    this.size = [400, 200];
    this.graph = { dirty: 0, setDirtyCanvas() { this.dirty += 1; } };
    this.place = document.createElement('section');
    document.getElementById('canvas').append(this.place);
    const element = document.createElement('textarea');
    element.className = 'comfy-multiline-input';
    this.place.append(element);
    this.widgets = [{ name: input, type: 'customtext', element, options: {}, value }];
  }

  setSize(size) {
    this.size = size;
    this.place.style.width = `${size[0]}px`;
    for (const { element, options } of this.widgets) {
      if (options.getMinHeight) element.style.height = `${options.getMinHeight()}px`;
    }
  }

  computeSize() {
    const heights = this.widgets.map(({ options }) => options.getMinHeight?.() ?? 0);
    return [400, 60 + heights.reduce((sum, height) => sum + height, 0)];
  }

  addDOMWidget(name, type, element, options) {
    const widget = { name, type, element, options, get value() { return options.getValue(); } };
    element.style.height = `${options.getMinHeight()}px`;
    this.place.append(element);
    this.widgets.push(widget);
    return widget;
  }

  /** What a workflow saves. */
  serialize() {
    return { widgets_values: this.widgets.filter((widget) => widget.serialize !== false).map(({ value }) => value),
      properties: structuredClone(this.properties) };
  }

  /** What the page does with a node of a workflow that it opens. */
  configure({ widgets_values, properties = {} }) {
    Object.assign(this.properties, properties);
    const saved = this.widgets.filter((widget) => widget.serialize !== false);
    saved.forEach((widget, index) => { if (index in widgets_values) widget.value = widgets_values[index]; });
    this.onConfigure?.({ widgets_values });
  }

  /** What the page sends to be run: the inputs by name. */
  inputs() {
    return Object.fromEntries(this.widgets.filter((widget) => widget.options?.serialize !== false)
      .map(({ name, value }) => [name, value]));
  }

  remove() {
    this.onRemoved?.();
    this.place.remove();
  }
}

/** Add a node, as the page does when one is dropped on it. */
window.addNode = (comfyClass, input, value) => {
  const node = new Node(comfyClass, input, value);
  app.extensions.forEach((extension) => extension.nodeCreated?.(node));
  return node;
};
