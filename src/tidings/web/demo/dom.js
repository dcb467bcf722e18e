/** Functions to find and create elements. Text is only set as text, so server data never become markup. */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind the element's class, checked
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return found;
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | boolean | undefined>} [attributes] `true` sets an empty one, `false` none
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** @param {string} text @param {() => void} act @param {string} [look] extra classes @returns {HTMLButtonElement} */
export function button(text, act, look = "") {
  const made = el("button", { type: "button", class: `button ${look}`.trim() }, text);
  made.addEventListener("click", act);
  return made;
}

/** Announce a text to screen readers. @param {string} text */
export function announce(text) {
  byId("announcer", HTMLElement).textContent = text;
}

/**
 * Show or hide a form's problem line.
 * @param {HTMLElement} line
 * @param {string | null} text
 */
export function tellProblem(line, text) {
  line.textContent = text ?? "";
  line.hidden = text === null;
}
