"use strict";
// One picture of the viewer: the photograph, smooth, and on it a map, whose pixels stay pixels.
window.wssstile = (() => {
    const { IGNORE, classTable, classes, errors, errorOf, heat, ERRORS } = window.wssscolours;

    function made(name, className, ...children) {
        const element = document.createElement(name);
        element.className = className;
        element.append(...children);
        return element;
    }

    class Tile {
        // about: {title, kind: "photo" | "truth" | "labels" | "scores", what, names?, maps?: {image: {size, classes}}}.
        constructor(about) {
            this.about = about;
            this.canvas = made("canvas", "tile-canvas");
            this.canvas.tabIndex = 0;
            this.canvas.setAttribute("role", "img");
            this.note = made("span", "tile-note");
            this.reading = made("output", "tile-reading", "\u00a0");
            this.title = made("span", "tile-title", about.title);
            this.title.title = about.title;
            this.across = made("i", "cross-x");
            this.down = made("i", "cross-y");
            const stage = made("div", "tile-stage", this.canvas, this.across, this.down);
            this.element = made("figure", "tile", made("figcaption", "", this.title, this.note), stage, this.reading);
            this.element.dataset.tile = about.title;
        }

        // What is loaded of the image: map {width, height, values} or null, or `missing`, a sentence.
        load(image, map, missing) {
            this.map = map;
            this.missing = missing;
            this.facts = (this.about.maps || {})[image] || { classes: [] };
        }

        get isScores() {
            return this.about.kind === "scores";
        }

        // The image's size for which the map was made, [H, W].
        get size() {
            return this.isScores ? this.facts.size : this.map && [this.map.height, this.map.width];
        }

        // Height of one plane of scores, or of the labels.
        get rows() {
            return this.isScores ? this.map.height / this.facts.classes.length : this.map.height;
        }

        name(index, names) {
            if (index === IGNORE) return "ignored";
            // A single plane of class 0 is a picture of its own, such as the background or the affinity.
            if (this.isScores && this.facts.classes.length === 1 && index === 0) return this.about.what;
            return (this.about.names || names)[index] || `class ${index}`;
        }

        // Colour the map anew; done once for a state, not for a movement.
        colour(state, scene) {
            const truth = scene.truth, map = state.truth && truth && !this.isScores && this.map ? truth : this.map;
            this.shown = map;
            this.layer = null;
            this.odd = false;
            const notes = [];
            if (this.missing) notes.push(this.missing);
            if (map && this.about.kind !== "photo") {
                const [height, width] = map === truth ? [truth.height, truth.width] : this.size;
                this.odd = height !== scene.height || width !== scene.width;
                if (this.odd) notes.push(`made for ${width} × ${height}, the image has ${scene.width} × ${scene.height}: not resized`);
                this.layer = this.isScores ? this.heatLayer(state, scene, notes) : this.labelLayer(map, state, scene, notes);
            }
            this.title.textContent = map !== this.map ? `truth, instead of ${this.about.title}` : this.about.title;
            this.note.textContent = notes.join("; ");
            this.canvas.setAttribute("aria-label", `${this.about.title} ${notes.join("; ")}`);
        }

        labelLayer(map, state, scene, notes) {
            if (state.view === "errors" && this.about.kind === "labels" && map === this.map) {
                const { truth } = scene;
                if (truth && truth.width === map.width && truth.height === map.height)
                    return errors(map, truth, state.off, state.hidden);
                notes.push(truth ? "no error map: the truth has another size" : "no error map without the truth");
            }
            return classes(map, classTable(state.palette, state.off));
        }

        heatLayer(state, scene, notes) {
            this.planes = this.planesOf(state);
            if (!this.planes.length) {
                notes.push(`no scores of ${this.name(state.heat, scene.names)} here`);
                return null;
            }
            return heat(this.map.width, this.rows, (place) => this.level(place).level);
        }

        planesOf(state) {
            const { classes } = this.facts, all = classes.map((_, plane) => plane);
            if (classes.length === 1 && classes[0] === 0) return all;
            if (state.heat !== null) return all.filter((plane) => classes[plane] === state.heat);
            const on = all.filter((plane) => !state.off.has(classes[plane]));
            return on.length ? on : all;
        }

        // The largest of the chosen planes at a cell, and whose it is.
        level(place) {
            let best = { level: -1, index: 0 };
            for (const plane of this.planes) {
                const level = this.map.values[plane * this.map.width * this.rows + place];
                if (level > best.level) best = { level, index: this.facts.classes[plane] };
            }
            return best;
        }

        // Where the map lies in the image's pixels: all of it, or of another size as large as it fits, in its own shape.
        place(scene) {
            if (!this.odd) return [scene.width, scene.height];
            const [height, width] = this.shown === scene.truth ? [this.shown.height, this.shown.width] : this.size;
            const scale = Math.min(scene.width / width, scene.height / height);
            return [width * scale, height * scale];
        }

        // scale: device pixels for a pixel of the image; left, top: of the image in device pixels.
        draw(state, scene, { scale, left, top }) {
            const context = this.canvas.getContext("2d");
            context.setTransform(1, 0, 0, 1, 0, 0);
            context.clearRect(0, 0, this.canvas.width, this.canvas.height);
            context.setTransform(scale, 0, 0, scale, left, top);
            context.globalAlpha = 1;
            context.imageSmoothingEnabled = true;
            context.imageSmoothingQuality = "high";
            const under = this.isScores ? scene.grey : scene.photo;
            if (under && !this.odd) context.drawImage(under, 0, 0, scene.width, scene.height);
            else {
                context.fillStyle = "#808080";
                context.fillRect(0, 0, scene.width, scene.height);
            }
            if (!this.layer) return;
            context.globalAlpha = this.odd ? 1 : state.opacity;
            context.imageSmoothingEnabled = false;
            context.drawImage(this.layer, 0, 0, ...this.place(scene));
        }

        // What stands at a pixel of the image (real numbers), in words; empty outside.
        read(x, y, state, scene) {
            if (!this.shown || this.about.kind === "photo") return "";
            const [width, height] = this.place(scene);
            if (x < 0 || y < 0 || x >= width || y >= height) return "";
            const across = this.isScores ? this.map.width : this.shown.width;
            const down = this.isScores ? this.rows : this.shown.height;
            const place = Math.floor((y * down) / height) * across + Math.floor((x * across) / width);
            if (this.isScores) {
                if (!this.planes.length) return "";
                const { level, index } = this.level(place);
                return `${this.name(index, scene.names)} ${(level / 255).toFixed(2)}`;
            }
            const index = this.shown.values[place], said = `${this.name(index, scene.names)} (${index})`;
            if (this.about.kind === "truth" || this.odd || !scene.truth || scene.truth.width !== across) return said;
            const truth = scene.truth.values[place], error = errorOf(truth, index);
            if (state.view !== "errors" || error < 0) return said;
            const wrong = error === 1 || error === 2 ? `, is ${this.name(truth, scene.names)}` : "";
            return `${said}: ${ERRORS[error]}${wrong}`;
        }

        point(spot, text) {
            this.reading.textContent = text || "\u00a0";
            for (const line of [this.across, this.down]) line.hidden = !spot;
            if (!spot) return;
            this.across.style.top = `${spot.top}px`;
            this.down.style.left = `${spot.left}px`;
        }
    }

    return { Tile, made };
})();
