"use strict";
// From values to colours: lookup tables of classes, of errors against the truth, and of scores.
window.wssscolours = (() => {
    const IGNORE = 255;
    // How a pixel of a map stands to the truth; the colours differ in lightness too.
    const ERRORS = ["right", "missed", "false", "ignored"];
    const ERROR_COLOURS = [[0, 114, 178], [30, 30, 30], [255, 176, 0], [190, 190, 190]];
    // Okabe and Ito's colours, which people tell apart who see colours differently; then again lighter and darker.
    const OKABE_ITO = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
    const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

    // The colour map of the VOC development kit.
    function voc(index) {
        const colour = [0, 0, 0];
        for (let bit = 0; bit < 8; bit++)
            for (let channel = 0; channel < 3; channel++)
                colour[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit);
        return colour;
    }

    function distinct(index) {
        if (index === 0) return [0, 0, 0];
        if (index === IGNORE) return [224, 224, 224];
        const colour = OKABE_ITO[(index - 1) % OKABE_ITO.length];
        const turn = Math.floor((index - 1) / OKABE_ITO.length) % 3;
        if (turn === 0) return colour;
        return colour.map((value) => Math.round(turn === 1 ? value + (255 - value) * 0.55 : value * 0.5));
    }

    const PALETTES = { voc, distinct };
    const packed = ([red, green, blue], alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

    // For each of 256 indices the pixel; what is off is transparent.
    function classTable(palette, off) {
        return Uint32Array.from({ length: 256 }, (_, index) => (off.has(index) ? 0 : packed(PALETTES[palette](index))));
    }

    const heatTable = Uint32Array.from({ length: 256 }, (_, level) => {
        const place = (level / 255) * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
        return packed(HEAT[low].map((value, channel) => Math.round(value + (HEAT[low + 1][channel] - value) * (place - low))));
    });

    // The place in ERRORS of a pixel; background that is right is no news: -1.
    function errorOf(truth, said) {
        if (truth === IGNORE || said === IGNORE) return 3;
        if (truth === said) return truth === 0 ? -1 : 0;
        return said === 0 ? 1 : 2;
    }

    function canvasOf(width, height, fill) {
        const canvas = document.createElement("canvas");
        canvas.width = width;
        canvas.height = height;
        const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
        fill(new Uint32Array(picture.data.buffer));
        context.putImageData(picture, 0, 0);
        return canvas;
    }

    function classes(map, table) {
        return canvasOf(map.width, map.height, (pixels) => {
            for (let place = 0; place < pixels.length; place++) pixels[place] = table[map.values[place]];
        });
    }

    function errors(map, truth, off, hidden) {
        const colours = ERROR_COLOURS.map((colour, place) => (hidden.has(ERRORS[place]) ? 0 : packed(colour)));
        return canvasOf(map.width, map.height, (pixels) => {
            for (let place = 0; place < pixels.length; place++) {
                const [right, said] = [truth.values[place], map.values[place]], error = errorOf(right, said);
                // A pixel belongs to the class that it is and to the one that it was taken for.
                if (error >= 0 && !(off.has(right) && off.has(said))) pixels[place] = colours[error];
            }
        });
    }

    function heat(width, height, level) {
        return canvasOf(width, height, (pixels) => {
            for (let place = 0; place < pixels.length; place++) pixels[place] = heatTable[level(place)];
        });
    }

    function grey(photo) {
        const canvas = document.createElement("canvas");
        canvas.width = photo.width;
        canvas.height = photo.height;
        const context = canvas.getContext("2d");
        context.drawImage(photo, 0, 0);
        const picture = context.getImageData(0, 0, photo.width, photo.height), data = picture.data;
        for (let at = 0; at < data.length; at += 4)
            data[at] = data[at + 1] = data[at + 2] = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
        context.putImageData(picture, 0, 0);
        return canvas;
    }

    const css = (colour) => `rgb(${colour.join(" ")})`;
    const classColour = (palette, index) => css(PALETTES[palette](index));
    const errorColour = (name) => css(ERROR_COLOURS[ERRORS.indexOf(name)]);
    return { IGNORE, ERRORS, classTable, classes, errors, errorOf, heat, grey, classColour, errorColour };
})();
