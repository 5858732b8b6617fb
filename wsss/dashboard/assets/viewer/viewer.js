"use strict";
// One image under many maps, with one transform for all of them. It knows nothing of where it stands: what it shows is
// a configuration, and bytes come from a source.
//
//   new wsssviewer.Viewer(element, configuration, source, changed)
//
//   configuration  {names: [class], images: [id], truth: bool,
//                   tiles: [{title, kind: "labels" | "scores", run, what, names?, maps: {id: {size: [H, W], classes}}}],
//                   state: {image, view, palette, opacity, off, hidden, heat, at}}; of the state what is missing is usual
//   source         (kind, image, tile) => Promise of an ArrayBuffer or null; kind is "image", "mask" or "map"
//   changed        (state) => what to do when the state changed
window.wsssviewer = (() => {
    const { Tile, made } = window.wssstile;
    const AHEAD_BYTES = 400e6, LARGEST_PIXEL = 64, STEP = 1.25;

    class Viewer {
        constructor(element, configuration, source, changed = () => {}) {
            this.element = element;
            this.source = source;
            this.changed = changed;
            this.kept = new Map();
            this.grid = made("div", "tiles");
            this.counter = made("span", "viewer-counter");
            this.legend = made("div", "legend");
            this.legend.setAttribute("role", "group");
            this.legend.setAttribute("aria-label", "Classes");
            this.state = {
                image: null, view: "classes", palette: "voc", opacity: 0.6, off: new Set([0]), hidden: new Set(),
                heat: null, at: null, truth: false, ...configuration.state,
            };
            this.controls = new window.wssstoolbar.Controls(this);
            element.replaceChildren(this.controls.element, this.legend, this.grid);
            element.classList.add("viewer");
            this.observer = new ResizeObserver(() => this.room !== element.clientWidth && this.arrange());
            this.observer.observe(element);
            this.onKey = (event) => this.key(event);
            document.addEventListener("keydown", this.onKey);
            window.wssspointer.listen(this);
            this.configure(configuration);
        }

        // Show other tiles or images; what was chosen of classes, palette and opacity stays.
        configure(configuration) {
            this.configuration = configuration;
            const tiles = [{ title: "image", kind: "photo", what: "image" }];
            if (configuration.truth) tiles.push({ title: "truth", kind: "truth", what: "truth" });
            this.tiles = [...tiles, ...configuration.tiles].map((about) => new Tile(about));
            this.grid.replaceChildren(...this.tiles.map((tile) => tile.element));
            const { image, at } = this.state, there = configuration.images;
            if (!image) return this.go(there[0], at);
            return there.includes(image) ? this.go(image, at) : this.go(there[0]);
        }

        // Another one takes its place.
        close() {
            this.observer.disconnect();
            document.removeEventListener("keydown", this.onKey);
            this.changed = () => {};
        }

        async go(image, at = null) {
            if (image === undefined) return;
            Object.assign(this.state, { image, at });
            const loaded = await this.fetchAll(image);
            // Somebody was faster, or this belongs to other tiles.
            if (this.state.image !== image || loaded.tiles !== this.tiles) return;
            this.scene = this.sceneOf(loaded);
            this.tiles.forEach((tile, place) => tile.load(image, ...loaded.maps[place]));
            this.restyle();
            this.arrange();
            this.element.dataset.image = image;
            const { images } = this.configuration, place = images.indexOf(image);
            this.counter.textContent = `${place + 1} of ${images.length}`;
            for (const near of [images[place + 1], images[place - 1]]) if (near !== undefined) this.fetchAll(near);
        }

        next(step) {
            const { images } = this.configuration, place = images.indexOf(this.state.image) + step;
            if (images[place] !== undefined) return this.go(images[place]);
        }

        async fetchAll(image) {
            const { tiles } = this;
            const [photo, ...maps] = await Promise.all(tiles.map((tile) => this.fetchOf(image, tile)));
            return { tiles, photo: photo[0], maps: [[null, photo[1]], ...maps] };
        }

        // [what was decoded or null, why it is missing], kept as long as there is room.
        fetchOf(image, { about }) {
            const key = JSON.stringify([about.kind === "photo" ? "image" : about.kind === "truth" ? "mask" : "map", image, about.run, about.what]);
            let entry = this.kept.get(key);
            if (!entry) {
                entry = { bytes: 0 };
                entry.promise = this.decoded(image, about, entry).catch((error) => {
                    this.kept.delete(key);
                    return [null, error.message];
                });
            }
            // What was asked for last goes last.
            this.kept.delete(key);
            this.kept.set(key, entry);
            return entry.promise.finally(() => this.forget());
        }

        async decoded(image, about, entry) {
            if (about.maps && !about.maps[image]) return [null, "no map of this image"];
            const kind = { photo: "image", truth: "mask" }[about.kind] || "map";
            const buffer = await this.source(kind, image, about);
            if (!buffer) return [null, kind === "mask" ? "this image has no mask" : kind === "image" ? "the photograph is not here" : "no map of this image"];
            if (kind !== "image") {
                const map = await window.wssspng.decode(buffer);
                entry.bytes = map.values.length;
                return [map, ""];
            }
            const photo = await createImageBitmap(new Blob([buffer]), { imageOrientation: "from-image" });
            entry.bytes = 4 * photo.width * photo.height;
            return [photo, ""];
        }

        forget() {
            let bytes = 0;
            for (const entry of this.kept.values()) bytes += entry.bytes;
            for (const [key, entry] of this.kept) {
                if (bytes <= AHEAD_BYTES || this.kept.size <= 4 * this.tiles.length) return;
                bytes -= entry.bytes;
                this.kept.delete(key);
            }
        }

        // What all tiles share of an image: its size, photograph, truth and class names.
        sceneOf({ photo, maps }) {
            const truthAt = this.tiles.findIndex((tile) => tile.about.kind === "truth");
            const truth = truthAt < 0 ? null : maps[truthAt][0];
            const sizes = this.tiles.map((tile, place) => {
                const facts = (tile.about.maps || {})[this.state.image];
                return facts ? facts.size : maps[place][0] && [maps[place][0].height, maps[place][0].width];
            });
            const [height, width] = photo ? [photo.height, photo.width] : sizes.find(Boolean) || [1, 1];
            const scores = this.tiles.some((tile) => tile.isScores);
            const grey = photo && scores ? window.wssscolours.grey(photo) : null;
            return { photo, grey, truth, width, height, names: this.configuration.names };
        }

        // The state changed: colour anew, draw, tell.
        restyle(change = {}) {
            Object.assign(this.state, change);
            if (!this.scene) return;
            for (const tile of this.tiles) tile.colour(this.state, this.scene);
            this.controls.update();
            this.draw();
        }

        // As many columns as make the tiles largest while all are seen, else as many as keep them readable.
        arrange() {
            if (!this.scene || !this.element.isConnected) return;
            this.room = this.element.clientWidth;
            const room = this.grid.clientWidth, gap = 8, text = 46, count = this.tiles.length;
            const height = Math.max(240, window.innerHeight - (this.grid.getBoundingClientRect().top + window.scrollY) - 16);
            const shape = this.scene.height / this.scene.width, least = Math.min(room, 230);
            const wide = (columns) => (room - gap * (columns - 1)) / columns;
            let columns = 1, used = 0;
            for (let tried = 1; tried <= count && wide(tried) >= least; tried++) {
                const fitting = Math.min(wide(tried), (height / Math.ceil(count / tried) - text) / shape);
                if (fitting > used) [used, columns] = [fitting, tried];
            }
            if (used < least) {
                columns = Math.min(count, Math.floor((room + gap) / (least + gap)));
                used = wide(columns);
            }
            const ratio = window.devicePixelRatio, snap = (length) => Math.max(1, Math.floor(length * ratio)) / ratio;
            this.tileSize = [snap(used), snap(used * shape)];
            this.grid.style.gridTemplateColumns = `repeat(${columns}, ${this.tileSize[0]}px)`;
            for (const { canvas } of this.tiles) {
                canvas.style.width = `${this.tileSize[0]}px`;
                canvas.style.height = `${this.tileSize[1]}px`;
                canvas.width = Math.round(this.tileSize[0] * ratio);
                canvas.height = Math.round(this.tileSize[1] * ratio);
            }
            this.draw();
        }

        // The one transform, in device pixels.
        get transform() {
            const ratio = window.devicePixelRatio, { width, height } = this.scene;
            const [across, down] = this.tileSize.map((length) => Math.round(length * ratio));
            const fit = Math.min(across / width, down / height);
            const [x, y, zoom] = this.state.at || [width / 2, height / 2, 1];
            const scale = fit * zoom;
            return { ratio, fit, scale, left: Math.round(across / 2 - x * scale), top: Math.round(down / 2 - y * scale), across, down };
        }

        draw() {
            if (!this.scene || !this.tileSize) return;
            const transform = this.transform;
            for (const tile of this.tiles) tile.draw(this.state, this.scene, transform);
            this.grid.classList.toggle("zoomed", this.state.at !== null);
            this.point();
            this.changed(this.state);
        }

        // A place of a tile, in CSS pixels, as a place of the image: the middle of the device pixel there.
        spot(left, top) {
            const { ratio, scale, left: from, top: above } = this.transform;
            return [(Math.floor(left * ratio) + 0.5 - from) / scale, (Math.floor(top * ratio) + 0.5 - above) / scale];
        }

        // Zoom by a factor, so that what is at a place of the tile stays there.
        zoom(factor, left = this.tileSize[0] / 2, top = this.tileSize[1] / 2) {
            const { ratio, fit, scale } = this.transform, [x, y] = this.spot(left, top);
            const largest = (LARGEST_PIXEL * ratio) / fit;
            const wanted = Math.min(Math.max((scale / fit) * factor, 1), Math.max(largest, 1));
            if (wanted === 1) return this.move(null);
            const [middleX, middleY] = this.spot(this.tileSize[0] / 2, this.tileSize[1] / 2), ratios = scale / (fit * wanted);
            this.move([x + (middleX - x) * ratios, y + (middleY - y) * ratios, wanted]);
        }

        // Pan by CSS pixels of a tile.
        pan(right, down) {
            if (!this.state.at) return;
            const { ratio, scale } = this.transform, [x, y, zoom] = this.state.at;
            this.move([x - (right * ratio) / scale, y - (down * ratio) / scale, zoom]);
        }

        move(at) {
            const { width, height } = this.scene, inside = (value, most) => Math.min(Math.max(value, 0), most);
            // To the digits that an address has, so that whoever gets it sees the same.
            const digits = (value) => Number(value.toFixed(3));
            this.state.at = at && [inside(at[0], width), inside(at[1], height), at[2]].map(digits);
            if (this.drawing) return;
            this.drawing = requestAnimationFrame(() => {
                this.drawing = 0;
                this.draw();
            });
        }

        // The crosshair of all tiles, at a pixel of the image; without one it goes where it was, null takes it away.
        point(pixel = this.pixel) {
            this.pixel = pixel;
            const { ratio, scale, left, top } = this.transform;
            const spot = pixel && { left: (pixel[0] * scale + left) / ratio, top: (pixel[1] * scale + top) / ratio };
            const seen = spot && spot.left >= 0 && spot.top >= 0 && spot.left <= this.tileSize[0] && spot.top <= this.tileSize[1];
            for (const tile of this.tiles) {
                const text = pixel ? tile.read(...pixel, this.state, this.scene) : "";
                const at = pixel && tile.about.kind === "photo" ? `x ${Math.floor(pixel[0])}, y ${Math.floor(pixel[1])}` : text;
                tile.point(seen && spot, at);
            }
        }

        key(event) {
            if (!this.element.isConnected) return this.close();
            if (!this.scene || event.ctrlKey || event.metaKey || event.altKey) return;
            const inside = event.target.closest && event.target.closest("input, select, textarea, [role=slider], [role=combobox], [role=listbox], dialog, .dash-dropdown-content");
            if (inside || !window.wssspointer.pressed(this, event, STEP)) return;
            event.preventDefault();
        }
    }

    return { Viewer };
})();
