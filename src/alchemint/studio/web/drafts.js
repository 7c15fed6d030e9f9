/** What is being written outlives a reload: it is kept in this browser alone. */

const KEY = 'alchemint.draft';

/** @returns {{storyboard: Object, options: Object}|null} */
export function readDraft() {
  try {
    const draft = JSON.parse(localStorage.getItem(KEY));
    return draft && typeof draft.storyboard === 'object' && Array.isArray(draft.storyboard?.subjects) ? draft : null;
  } catch {
    return null;
  }
}

/** @param {{storyboard: Object, options: Object}} draft */
export function writeDraft(draft) {
  try {
    localStorage.setItem(KEY, JSON.stringify(draft));
  } catch {
    // Storage may be full or switched off: the page works on, only a reload would lose the draft.
  }
}
