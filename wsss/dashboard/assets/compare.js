"use strict";
// Draws the trees of wsss/dashboard/compare/nodes.py, copies tables as data, follows the links in them without loading anew.
(() => {
    const SVG = new Set(["svg", "g", "path", "polyline", "line", "rect", "circle", "text", "title"]);
    const ALLOWED = /^(?!on|src|srcdoc$|formaction$)[a-zA-Z][a-zA-Z0-9-]*$/;

    function build([tag, attributes, children], within) {
        const svg = tag === "svg" || (within && SVG.has(tag));
        const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) {
            if (ALLOWED.test(name)) element.setAttribute(name, value);
        }
        element.append(...children.map((child) => (typeof child === "string" ? child : build(child, svg))));
        return element;
    }

    // What a section shows, as tab-separated values: what spreadsheets and data frames paste.
    function data(section) {
        const kept = section.querySelector("[data-tsv]");
        if (kept) return kept.textContent;
        const text = (cell) => cell.dataset.value ?? cell.innerText.replace(/\s+/g, " ").trim();
        return [...section.querySelectorAll("tr")]
            .map((row) => [...row.cells].flatMap((cell) => [text(cell), ...Array(cell.colSpan - 1).fill("")]).join("\t"))
            .join("\n");
    }

    async function copy(text) {
        if (navigator.clipboard) return navigator.clipboard.writeText(text);
        // Without TLS a browser has the old way alone.
        const area = document.createElement("textarea");
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
    }

    document.addEventListener("click", async (event) => {
        const button = event.target.closest("button[data-copy]");
        if (button) {
            const said = button.textContent;
            await copy(data(button.closest("section"))).then(
                () => { button.textContent = "Copied"; },
                () => { button.textContent = "Could not copy"; },
            );
            setTimeout(() => { button.textContent = said; }, 1500);
            return;
        }
        const link = event.target.closest(".drawn a[href^='/']");
        if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        history.pushState(null, "", link.getAttribute("href"));
        dispatchEvent(new PopStateEvent("popstate"));
        scrollTo(0, 0);
    });

    // A table of many links is one stop of the tab key; arrows go from link to link, along rows and columns.
    const links = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.querySelector("a")));
    function oneStop(place) {
        for (const table of place.querySelectorAll("table[data-grid]")) {
            table.querySelectorAll("a").forEach((link, number) => { link.tabIndex = number ? -1 : 0; });
        }
    }
    const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    document.addEventListener("keydown", (event) => {
        const table = event.target.closest?.("a") && event.target.closest("table[data-grid]");
        const step = STEPS[event.key];
        if (!table || !step || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        const cell = event.target.closest("td, th");
        const grid = links(table);
        let [row, column] = [cell.parentElement.rowIndex, cell.cellIndex];
        do { row += step[0]; column += step[1]; } while (grid[row] && column in grid[row] && !grid[row][column]);
        const next = grid[row]?.[column];
        if (!next) return;
        event.target.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
    });

    const dash = (window.dash_clientside ??= {});
    dash.compare = {
        oneStop,
        draw(tree, id) {
            const place = document.getElementById(id);
            if (!place || !tree) return;
            // The cell that has the keyboard keeps it.
            const focus = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
            place.replaceChildren(...tree.map((node) => build(node, false)));
            oneStop(place);
            if (focus) place.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
        },
    };
})();
