"use strict";
// What the pages do in the browser, called by their callbacks as dash_clientside.wsss.NAME.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
    wsss: {
        // The address says what the page shows, so that it can be sent; nothing is loaded.
        keep(path, keys, values) {
            if (location.pathname !== path) return;
            const query = new URLSearchParams(location.search);
            keys.forEach((key, number) => {
                const value = Array.isArray(values[number]) ? values[number].join(",") : values[number];
                if (value === undefined || value === null || value === "") query.delete(key);
                else query.set(key, value);
            });
            const text = query.toString().replaceAll("%2C", ",").replaceAll("%2F", "/").replaceAll("%3A", ":");
            history.replaceState(history.state, "", text ? `${path}?${text}` : path);
        },
    },
});
