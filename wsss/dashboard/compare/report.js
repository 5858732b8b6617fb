"use strict";
// The viewer in a report: its bytes lie in the file.
(() => {
    const data = JSON.parse(document.getElementById("data").textContent);
    dash_clientside.compare.oneStop(document);
    const place = document.getElementById("viewer");
    if (!data.viewer || !place) return;

    const own = (files, key) => (files && Object.hasOwn(files, key) ? files[key] : null);
    async function source(kind, image, tile) {
        const files = kind === "map" ? own(data.files.map, tile.run) : own(data.files, kind);
        const text = own(files, image);
        return text && Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
    }

    const buttons = [...document.querySelectorAll("button[data-image]")];
    const mark = ({ image }) => {
        for (const button of buttons) {
            const row = button.closest("tr");
            if (button.dataset.image === image) row.setAttribute("aria-current", "true");
            else row.removeAttribute("aria-current");
        }
    };
    const viewer = new window.wsssviewer.Viewer(place, data.viewer, source, mark);
    for (const button of buttons) button.addEventListener("click", () => viewer.go(button.dataset.image));
})();
