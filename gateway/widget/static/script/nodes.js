/* Small tools for the page: elements, icons, a little Markdown, readable colours. */

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function icon(paths, size = 20) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({
    viewBox: "0 0 24 24", width: size, height: size, fill: "none", stroke: "currentColor", "stroke-width": 1.75,
    "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true",
  })) svg.setAttribute(key, value);
  for (const d of paths) {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", d);
    svg.append(shape);
  }
  return svg;
}

const THUMB = "M7 11v9H4v-9ZM7 11l4-7.500a2 2 0 0 1 2.500 2.300L12.800 10H18a2 2 0 0 1 2 2.300l-1 6a2 2 0 0 1-2 1.700H7";
const ICONS = {
  chat: ["M4 5.500h16a1 1 0 0 1 1 1v9.500a1 1 0 0 1-1 1h-8.500L7 20.500V17H4a1 1 0 0 1-1-1V6.500a1 1 0 0 1 1-1Z", "M8 10h8", "M8 13h5"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  send: ["M12 19V5", "M6 11l6-6 6 6"],
  stop: ["M8 8h8v8H8Z"],
  person: ["M12 12.500a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z", "M4.500 20c.8-3.300 3.800-5 7.500-5s6.700 1.700 7.500 5"],
  up: [THUMB],
};

/* Models write a little Markdown: **bold**, `code`, lists and links. Built as nodes, never as HTML. */
const INLINE = /\*\*([^*\n]+)\*\*|`([^`\n]+)`|(https?:\/\/[^\s<>()"'、。，）」]+[^\s<>()"'.,;:!?、。，）」])/g;

const link = (href, text) => el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, text);

/* A source as a link where its address is one of the web; else its title alone. */
function sourceNode({ title, url }) {
  const web = URL.canParse(url ?? "") && /^https?:$/.test(new URL(url).protocol);
  return web ? link(new URL(url).href, title) : el("span", {}, title);
}

function inline(parent, text) {
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    parent.append(text.slice(from, match.index));
    if (match[1]) parent.append(el("strong", {}, match[1]));
    else if (match[2]) parent.append(el("code", {}, match[2]));
    else parent.append(link(match[3], match[3]));
    from = match.index + match[0].length;
  }
  parent.append(text.slice(from));
}

function render(parent, text) {
  const made = [];
  let list = null;
  for (const line of text.split("\n")) {
    const item = line.match(/^\s*(?:[-*•]|(\d+)[.)])\s+(.*)$/);
    if (item) {
      const kind = item[1] ? "ol" : "ul";
      if (!list || list.localName !== kind) made.push(list = el(kind, item[1] ? { start: item[1] } : {}));
      const entry = el("li");
      inline(entry, item[2]);
      list.append(entry);
    } else {
      list = null;
      if (!line.trim()) continue;
      const paragraph = el("p");
      inline(paragraph, line.replace(/^#{1,6}\s+/, ""));
      made.push(paragraph);
    }
  }
  parent.replaceChildren(...made);
}

/* WCAG relative luminance of "#rrggbb", and the contrast of two. */
function luminance(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const part = parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

const SURFACE = { light: "#ffffff", dark: "#1d1c1a" };  // as in the style sheet
const INK = { light: "#1f1e1a", dark: "#f0eee8" };

/* White or near-black on the shop's colour, whichever reads better. */
const inkOn = (colour) => (contrast(colour, "#ffffff") >= contrast(colour, "#16150f") ? "#ffffff" : "#16150f");

/* Lines in the shop's colour where they can be seen on the panel, else in that of the text. */
const lineOn = (colour, theme) => (contrast(colour, SURFACE[theme]) >= 3 ? colour : INK[theme]);

function pageIsDark() {
  const declared = getComputedStyle(document.documentElement).colorScheme + " "
    + (document.querySelector('meta[name="color-scheme"]')?.content ?? "");
  return declared.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches;
}

const STYLE = `STYLE_SHEET`;
