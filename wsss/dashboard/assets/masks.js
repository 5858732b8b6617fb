"use strict";
// The page Masks: its list of images beside the viewer, where bytes come from, and what of it stands in the address.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
    masks: (() => {
        const PATH = "/masks", AFTER_MS = 150;
        let page = null;

        async function bytes(kind, image, tile) {
            if (kind === "image" && !page.photo) return null;
            if (kind === "mask" && page.unmasked.has(image)) return null;
            const id = encodeURIComponent(image);
            const data = `/files/data/${encodeURIComponent(page.dataset)}`;
            const map = () => `/files/runs/${tile.run}/maps/${encodeURIComponent(tile.what)}/${id}`;
            const answer = await fetch(kind === "map" ? map() : `${data}/${kind}/${id}`).catch(() => null);
            if (!answer) throw new Error("the dashboard does not answer; start it again");
            if (answer.ok) return answer.arrayBuffer();
            if (answer.status === 404 && kind !== "map") return null;
            const said = await answer.json().catch(() => ({}));
            throw new Error(said.detail || `not there (${answer.status})`);
        }

        const numbers = (text) => new Set(text === "none" ? [] : text.split(",").map(Number));

        // The state of the viewer that an address names.
        function fromAddress() {
            const query = new URLSearchParams(location.search), state = { image: query.get("image") };
            if (query.get("view") === "errors") state.view = "errors";
            const palette = query.get("colours") || document.documentElement.dataset.palette;
            if (palette === "voc" || palette === "distinct") state.palette = palette;
            const opacity = Number(query.get("opacity") || NaN);
            if (opacity >= 0 && opacity <= 1) state.opacity = opacity;
            if (query.get("off")) state.off = numbers(query.get("off"));
            if (query.get("hidden")) state.hidden = new Set(query.get("hidden").split(","));
            if (query.get("scores")) state.heat = Number(query.get("scores"));
            const at = (query.get("at") || "").split(",").map(Number);
            if (at.length === 3 && at.every(Number.isFinite) && at[2] > 1) state.at = at;
            return state;
        }

        function toAddress({ image, view, palette, opacity, off, hidden, heat, at }) {
            const indices = [...off].sort((one, other) => one - other).join(",");
            const said = {
                image,
                view: view === "classes" ? "" : view,
                colours: palette === (document.documentElement.dataset.palette || "voc") ? "" : palette,
                opacity: opacity === 0.6 ? "" : opacity,
                off: indices === "0" ? "" : indices || "none",
                hidden: [...hidden].join(","),
                scores: heat === null ? "" : heat,
                at: at ? at.join(",") : "",
            };
            window.dash_clientside.wsss.keep(PATH, Object.keys(said), Object.values(said));
        }

        function cell(name, text, className = "") {
            const element = document.createElement(name);
            element.textContent = text;
            element.className = className;
            return element;
        }

        // The list: an image a row, with its figures.
        function list(root, { columns, images }) {
            const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
            for (const column of ["image", ...columns]) head.append(Object.assign(cell("th", column), { scope: "col" }));
            for (const { id, cells } of images) {
                const row = body.insertRow(), name = cell("button", id);
                row.dataset.image = id;
                name.type = "button";
                name.title = id;
                row.insertCell().append(name);
                for (const text of cells) row.append(cell("td", text, "number"));
                row.addEventListener("click", () => page.viewer.go(id));
            }
            root.replaceChildren(table);
        }

        function mark(image) {
            for (const row of page.list.querySelectorAll("tbody tr")) {
                const is = row.dataset.image === image;
                if (is === (row.getAttribute("aria-current") === "true")) continue;
                row.toggleAttribute("aria-current", is);
                if (is) {
                    row.setAttribute("aria-current", "true");
                    const room = page.list, [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
                    if (top < room.scrollTop + 30) room.scrollTop = top - 30;
                    else if (bottom > room.scrollTop + room.clientHeight) room.scrollTop = bottom - room.clientHeight;
                }
            }
        }

        // Show what the server chose: {dataset, photo, unmasked, names, truth, columns,
        // images: [{id, cells}], tiles}.
        function show(choice) {
            const element = document.getElementById("masks-view");
            if (!choice || !element) return "";
            const configuration = { ...choice, images: choice.images.map(({ id }) => id) };
            const old = page && page.viewer, here = old && page.element === element;
            const same = here && page.dataset === choice.dataset;
            const { dataset, photo, unmasked } = choice;
            page = { viewer: old, element, dataset, photo, unmasked: new Set(unmasked), list: document.getElementById("masks-list") };
            list(page.list, choice);
            element.hidden = page.list.hidden = !choice.images.length;
            if (!choice.images.length) return "";
            if (same) {
                page.viewer.configure(configuration);
                return "";
            }
            let waiting = 0;
            const changed = (state) => {
                if (!page.viewer || page.viewer.state !== state) return;
                mark(state.image);
                clearTimeout(waiting);
                waiting = setTimeout(() => element.isConnected && toAddress(state), AFTER_MS);
            };
            if (old) old.close();
            const { palette, opacity } = old ? old.state : {};
            configuration.state = here ? { palette, opacity } : fromAddress();
            page.viewer = new window.wsssviewer.Viewer(page.element, configuration, bytes, changed);
            return "";
        }

        // Another palette was chosen for all pages.
        addEventListener("wsss:look", () => {
            const { palette } = document.documentElement.dataset;
            if (page && page.viewer && page.viewer.element.isConnected && palette) page.viewer.restyle({ palette });
        });

        return { show };
    })(),
});
