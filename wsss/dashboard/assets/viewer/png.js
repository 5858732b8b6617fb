"use strict";
// Grey and palette PNGs of 8 bits as the values that are stored: no browser's colours come between.
window.wssspng = (() => {
    const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

    // {width, height, values: Uint8Array of height * width}, from an ArrayBuffer.
    async function decode(buffer) {
        const bytes = new Uint8Array(buffer), view = new DataView(buffer);
        if (bytes.length < 45 || SIGNATURE.some((byte, place) => bytes[place] !== byte)) throw new Error("no PNG");
        const width = view.getUint32(16), height = view.getUint32(20);
        const [depth, colour, , , interlaced] = bytes.subarray(24, 29);
        if (depth !== 8 || (colour !== 0 && colour !== 3) || interlaced) throw new Error("no PNG of 8-bit indices");
        const parts = [];
        for (let at = 8; at + 12 <= bytes.length; ) {
            const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
            if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
            at += 12 + length;
        }
        const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
        const rows = new Uint8Array(await new Response(inflated).arrayBuffer());
        if (rows.length !== height * (width + 1)) throw new Error("a damaged PNG");
        return { width, height, values: unfiltered(rows, width, height) };
    }

    // PNG specification, section 9: each row begins with how it was filtered.
    function unfiltered(rows, width, height) {
        const values = new Uint8Array(width * height);
        for (let y = 0; y < height; y++) {
            const filter = rows[y * (width + 1)], from = y * (width + 1) + 1, to = y * width;
            if (filter === 0) {
                values.set(rows.subarray(from, from + width), to);
                continue;
            }
            for (let x = 0; x < width; x++) {
                const left = x ? values[to + x - 1] : 0;
                const above = y ? values[to + x - width] : 0;
                const corner = x && y ? values[to + x - width - 1] : 0;
                values[to + x] = rows[from + x] + predicted(filter, left, above, corner);
            }
        }
        return values;
    }

    function predicted(filter, left, above, corner) {
        if (filter === 1) return left;
        if (filter === 2) return above;
        if (filter === 3) return (left + above) >> 1;
        const guess = left + above - corner;
        const [toLeft, toAbove, toCorner] = [left, above, corner].map((value) => Math.abs(guess - value));
        return toLeft <= toAbove && toLeft <= toCorner ? left : toAbove <= toCorner ? above : corner;
    }

    return { decode };
})();
