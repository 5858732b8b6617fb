"use strict";
// The viewer's own controls: what is coloured and how, and the classes as switches.
window.wssstoolbar = (() => {
    const { made } = window.wssstile, { IGNORE, ERRORS, classColour, errorColour } = window.wssscolours;
    const KEYS = [
        ["n, →", "next image"], ["p, ←", "image before"], ["+, −, wheel, pinch", "zoom"], ["0", "fit"],
        ["arrows on a picture", "pan"], ["Shift + arrows on a picture", "move the crosshair"],
        ["e", "errors or classes"], ["t", "truth in place of the maps"], ["1 to 9", "a class on or off"],
        ["Shift + click on a class", "that class alone, or all again"], ["?", "this list"],
    ];

    function labelled(text, control) {
        return made("label", "control", made("span", "", text), control);
    }

    function button(text, title, act) {
        const element = made("button", "", text);
        element.type = "button";
        element.title = title;
        element.addEventListener("click", act);
        return element;
    }

    function select(choices, act) {
        const element = made("select", "");
        fill(element, choices);
        element.addEventListener("change", () => act(element.value));
        return element;
    }

    function fill(element, choices) {
        element.replaceChildren(...choices.map(([value, text]) => {
            const choice = made("option", "", text);
            choice.value = value;
            return choice;
        }));
    }

    class Controls {
        constructor(viewer) {
            this.viewer = viewer;
            const restyle = (change) => viewer.restyle(change);
            this.view = select([["classes", "classes"], ["errors", "errors"]], (view) => restyle({ view }));
            this.palette = select([["voc", "VOC"], ["distinct", "colour-blind safe"]], (palette) => restyle({ palette }));
            this.heat = select([["", "largest"]], (heat) => restyle({ heat: heat === "" ? null : Number(heat) }));
            this.opacity = made("input", "");
            Object.assign(this.opacity, { type: "range", min: 0, max: 1, step: 0.05 });
            this.opacity.addEventListener("input", () => restyle({ opacity: Number(this.opacity.value) }));
            this.truth = button("truth", "Show the truth in place of the maps (t)", () => restyle({ truth: !viewer.state.truth }));
            this.scores = labelled("scores of", this.heat);
            this.keys = made("dialog", "keys", made("dl", ""));
            for (const [key, meaning] of KEYS) this.keys.firstChild.append(made("dt", "", key), made("dd", "", meaning));
            this.keys.append(button("close", "Close", () => this.keys.close()));
            this.element = made(
                "div", "controls",
                button("‹", "The image before (p)", () => viewer.next(-1)), viewer.counter,
                button("›", "The next image (n)", () => viewer.next(1)),
                labelled("show", this.view), labelled("colours", this.palette), this.scores,
                labelled("opacity", this.opacity), this.truth,
                button("−", "Smaller (-)", () => viewer.zoom(1 / 1.5)), button("+", "Larger (+)", () => viewer.zoom(1.5)),
                button("fit", "The whole image (0)", () => viewer.move(null)), button("?", "Keys", () => this.help()), this.keys,
            );
        }

        help() {
            if (this.keys.open) this.keys.close();
            else this.keys.showModal();
        }

        // The classes that occur in what is shown, and those that are switched off, by index.
        present() {
            const { tiles, scene, state } = this.viewer, found = new Set();
            for (const tile of tiles) {
                if (!tile.map) continue;
                if (tile.isScores) tile.facts.classes.forEach((index) => found.add(index));
                else {
                    const seen = new Uint8Array(256);
                    for (const value of tile.map.values) seen[value] = 1;
                    seen.forEach((is, index) => is && found.add(index));
                }
            }
            this.here = new Set(found);
            for (const index of state.off) if (index <= scene.names.length || index === IGNORE) found.add(index);
            return [...found].sort((one, other) => one - other);
        }

        update() {
            const { state, scene, tiles } = this.viewer;
            this.view.value = state.view;
            this.palette.value = state.palette;
            this.opacity.value = state.opacity;
            this.truth.setAttribute("aria-pressed", String(state.truth));
            this.truth.disabled = !scene.truth;
            if (this.counted !== scene) [this.counted, this.indices] = [scene, this.present()];
            this.name = (index) => (index === IGNORE ? "ignored" : scene.names[index] || `class ${index}`);
            this.scores.hidden = !tiles.some((tile) => tile.isScores);
            const scored = new Set(tiles.flatMap((tile) => (tile.isScores ? tile.facts.classes : [])));
            if (state.heat !== null) scored.add(state.heat);
            fill(this.heat, [["", "largest"], ...[...scored].sort((a, b) => a - b).map((index) => [index, this.name(index)])]);
            this.heat.value = state.heat === null ? "" : state.heat;
            this.switches();
        }

        switches() {
            const { state, legend } = this.viewer, focused = legend.contains(document.activeElement) && document.activeElement.dataset.key;
            // Of errors "ignored" is a switch of its own.
            const shown = this.indices.filter((index) => index !== IGNORE || state.view === "classes");
            const entries = shown.map((index) => [`class-${index}`, this.name(index), classColour(state.palette, index), !state.off.has(index),
                (event) => (event.shiftKey ? this.alone(index) : this.toggle(index)), this.here.has(index)]);
            if (state.view === "errors")
                entries.unshift(...ERRORS.map((error) => [`error-${error}`, error, errorColour(error), !state.hidden.has(error), () => this.toggleError(error), true]));
            const numbers = this.numbered();
            legend.replaceChildren(...entries.map(([key, name, colour, on, act, here]) => {
                const swatch = made("i", "swatch"), entry = button("", "On or off; with Shift alone", act);
                swatch.style.background = colour;
                const number = numbers.indexOf(key) + 1;
                entry.append(swatch, name, ...(number ? [made("kbd", "", String(number))] : []));
                entry.className = here ? "switch" : "switch absent";
                entry.dataset.key = key;
                entry.setAttribute("aria-pressed", String(on));
                return entry;
            }));
            if (focused) legend.querySelector(`[data-key="${focused}"]`)?.focus();
        }

        // The classes that 1 to 9 stand for: those that are seen, but for the background.
        numbered() {
            return this.indices.filter((index) => index && index !== IGNORE && this.here.has(index)).slice(0, 9).map((index) => `class-${index}`);
        }

        press(number) {
            const key = this.numbered()[number - 1];
            if (key) this.toggle(Number(key.slice(6)));
        }

        toggle(index) {
            const off = new Set(this.viewer.state.off);
            if (!off.delete(index)) off.add(index);
            this.viewer.restyle({ off });
        }

        alone(index) {
            const all = [...this.viewer.scene.names.keys(), IGNORE], others = all.filter((other) => other !== index);
            const { off } = this.viewer.state, is = others.every((other) => off.has(other)) && !off.has(index);
            this.viewer.restyle({ off: new Set(is ? [0] : others) });
            this.indices = this.present();
            this.switches();
        }

        toggleError(error) {
            const hidden = new Set(this.viewer.state.hidden);
            if (!hidden.delete(error)) hidden.add(error);
            this.viewer.restyle({ hidden });
        }
    }

    return { Controls };
})();
