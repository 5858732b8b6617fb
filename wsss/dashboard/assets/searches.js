"use strict";
// What the page of searches does in the browser, called by its callbacks.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
    searches: {
        // What was clicked in a figure becomes the selected row.
        pick(...clicks) {
            const none = window.dash_clientside.no_update;
            const id = window.dash_clientside.callback_context.triggered[0]?.prop_id.split(".")[0];
            const names = ["history", "front", "parallel"].map((name) => `searches-${name}`);
            const trial = clicks[names.indexOf(id)]?.points[0]?.customdata;
            if (!trial) return [none, none];
            return [{ ids: [String(trial)] }, { rowId: String(trial), rowPosition: "middle" }];
        },
        // The trial of the selected row, as people count.
        picked(rows, before) {
            const row = Array.isArray(rows) ? rows[0] : undefined;
            const trial = row ? row.trial : Number(rows?.ids?.[0]) || null;
            return trial === before ? window.dash_clientside.no_update : trial;
        },
    },
});
