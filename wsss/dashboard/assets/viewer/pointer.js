"use strict";
// How the viewer is moved: by mouse, pen, fingers and keys.
window.wssspointer = (() => {
    function listen(viewer) {
        const { grid } = viewer, fingers = new Map();
        let moved = null;
        const place = (event) => {
            const box = event.target.getBoundingClientRect();
            return [event.clientX - box.left, event.clientY - box.top];
        };
        const onCanvas = (act) => (event) => {
            if (viewer.scene && event.target.matches("canvas")) act(event);
        };
        grid.addEventListener("wheel", onCanvas((event) => {
            // What can't be made smaller leaves the wheel to the page.
            if (event.deltaY > 0 && !viewer.state.at) return;
            event.preventDefault();
            const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1;
            viewer.zoom(Math.exp(-event.deltaY * lines * 0.002), ...place(event));
        }), { passive: false });
        grid.addEventListener("pointerdown", onCanvas((event) => {
            fingers.set(event.pointerId, place(event));
            event.target.setPointerCapture(event.pointerId);
            moved = place(event);
        }));
        grid.addEventListener("pointermove", onCanvas((event) => {
            const now = place(event), before = fingers.get(event.pointerId);
            if (before && fingers.size === 2) {
                const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
                const far = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]);
                viewer.zoom(far(now) / Math.max(far(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
            } else if (before) viewer.pan(now[0] - before[0], now[1] - before[1]);
            if (before) fingers.set(event.pointerId, now);
            viewer.point(viewer.spot(...now));
        }));
        const lift = (event) => fingers.delete(event.pointerId);
        for (const name of ["pointerup", "pointercancel"]) grid.addEventListener(name, lift);
        grid.addEventListener("pointerleave", () => viewer.scene && viewer.point(null));
        grid.addEventListener("dblclick", onCanvas((event) => viewer.zoom(2, ...place(event))));
    }

    // Whether the key means something here.
    function pressed(viewer, event, step) {
        const { state } = viewer, onCanvas = event.target.matches && event.target.matches(".tile-canvas");
        const [right, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] || [0, 0];
        if (right || down) {
            if (onCanvas && event.shiftKey) nudge(viewer, right, down);
            else if (onCanvas && state.at) viewer.pan(-60 * right, -60 * down);
            else if (right && !onCanvas) viewer.next(right);
            else return false;
            return true;
        }
        const act = {
            n: () => viewer.next(1),
            p: () => viewer.next(-1),
            "+": () => viewer.zoom(step),
            "=": () => viewer.zoom(step),
            "-": () => viewer.zoom(1 / step),
            0: () => viewer.move(null),
            e: () => viewer.restyle({ view: state.view === "errors" ? "classes" : "errors" }),
            t: () => viewer.restyle({ truth: !state.truth }),
            "?": () => viewer.controls.help(),
        }[event.key];
        if (act) act();
        else if (/^[1-9]$/.test(event.key)) viewer.controls.press(Number(event.key));
        else return false;
        return true;
    }

    // The crosshair goes on by a pixel of the image.
    function nudge(viewer, right, down) {
        const { width, height } = viewer.scene, [x, y] = viewer.pixel || [width / 2, height / 2];
        const whole = (value, step, most) => Math.min(Math.max(Math.floor(value) + step, 0), most - 1) + 0.5;
        viewer.point([whole(x, right, width), whole(y, down, height)]);
    }

    return { listen, pressed };
})();
