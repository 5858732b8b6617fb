"use strict";
// What the pages do in the browser, called by their callbacks as dash_clientside.wsss.NAME.
(() => {
    const KEPT = "wsss.look";
    const root = document.documentElement;

    // Before anything is painted, so that a dark room stays dark.
    const show = (look) => {
        root.dataset.theme = look.theme ?? "system";
        root.dataset.palette = look.palette ?? "voc";
    };
    try {
        show(JSON.parse(localStorage.getItem(KEPT) ?? "{}"));
    } catch {
        show({});
    }

    // VOC's colour of an index: its bits, three at a time, are the highest bits of red, green and blue.
    const vocColour = (index) => {
        const colour = [0, 0, 0];
        for (let bit = 7, rest = index; rest; bit -= 1, rest >>= 3) {
            for (let channel = 0; channel < 3; channel += 1) colour[channel] |= ((rest >> channel) & 1) << bit;
        }
        return colour;
    };
    // The eight of Okabe and Ito (2008), which differ for people who see colours differently too; then the same, lighter
    // and darker in turns.
    const OKABE_ITO = [
        [0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167],
    ];
    const distinctColour = (index) => {
        if (index === 0 || index === 255) return index ? [224, 224, 192] : [0, 0, 0];
        const colour = OKABE_ITO[1 + ((index - 1) % 7)];
        const turn = Math.floor((index - 1) / 7);
        if (turn === 0) return colour;
        const [towards, share] = [turn % 2 ? 255 : 0, Math.min(0.9, 0.3 + 0.15 * Math.floor(turn / 2) + (turn % 2 ? 0.15 : 0.1))];
        return colour.map((value) => Math.round(value + share * (towards - value)));
    };

    const text = (value) => (Array.isArray(value) ? value.join(",") : (value ?? "")).toString();
    const written = (query) => query.toString().replaceAll("%2C", ",").replaceAll("%2F", "/").replaceAll("%3A", ":");
    const addressed = (path, values) => {
        const query = new URLSearchParams();
        for (const [key, value] of Object.entries(values)) if (text(value)) query.set(key, text(value));
        return query.size ? `${path}?${written(query)}` : path;
    };
    const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

    // Figures need a large script; it is fetched while nobody waits, so that the first page with figures has it.
    const FIGURES = ["dash/dcc/async-graph.js", "plotly/package_data/plotly.min.js"];
    const QUIET_MS = 4000;
    let fetched = false;
    const fetchAhead = () => {
        if (fetched) return;
        fetched = true;
        const idle = window.requestIdleCallback ?? ((then) => then());
        const fetchFigures = () => {
            for (const script of FIGURES) {
                const href = `/_dash-component-suites/${script}`;
                document.head.append(Object.assign(document.createElement("link"), { rel: "prefetch", as: "script", href }));
            }
        };
        setTimeout(() => idle(fetchFigures), QUIET_MS);
    };

    // The link to the page that is open shows it as it is at first: its address alone would change otherwise.
    addEventListener("click", (event) => {
        const link = event.target.closest?.("a.page-link");
        const plain = link && event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
        if (plain && link.pathname === location.pathname && location.search) {
            event.preventDefault();
            event.stopPropagation();
            location.assign(link.pathname);
        }
    }, true);

    const grid = (id, then) => {
        if (document.getElementById(id)) window.dash_ag_grid?.getApiAsync(id).then(then);
    };

    // Rows that an address checks, until the grid has loaded them.
    let [picking, awaited] = [undefined, new Set()];
    const pick = (runs) => {
        const element = document.getElementById("leaderboard-grid");
        if (element === picking) return;
        [picking, awaited] = [element, new Set(runs)];
        grid("leaderboard-grid", (api) => {
            const mark = () => {
                const rows = [...awaited].map((run) => api.getRowNode(run)?.data).filter(Boolean);
                if (rows.length) dash_clientside.set_props("leaderboard-grid", { selectedRows: [...api.getSelectedRows(), ...rows] });
            };
            api.addEventListener("modelUpdated", mark);
            mark();
        });
    };

    window.dash_clientside = Object.assign({}, window.dash_clientside, {
        wsss: {
            // The colour of a class's index as [red, green, blue], of the palette that was chosen. "wsss:look" is the event
            // on the window when another was.
            colour: (index) => (root.dataset.palette === "distinct" ? distinctColour(index) : vocColour(index)),
            addressed,

            // The address says what the page shows, so that it can be sent; nothing is loaded.
            keep(path, keys, values) {
                if (location.pathname !== path) return;
                const query = new URLSearchParams(location.search);
                keys.forEach((key, number) => {
                    if (text(values[number])) query.set(key, text(values[number]));
                    else query.delete(key);
                });
                history.replaceState(history.state, "", query.size ? `${path}?${written(query)}` : path);
            },

            // A page was opened: the window says which, and the navigation.
            arrive(path, titles) {
                document.title = titles[path] ? `${titles[path]} · wsss` : "wsss";
                for (const link of document.querySelectorAll("a.page-link")) {
                    if (link.pathname === path) link.setAttribute("aria-current", "page");
                    else link.removeAttribute("aria-current");
                }
                fetchAhead();
                return path;
            },

            look(theme, palette) {
                const look = { theme, palette };
                show(look);
                localStorage.setItem(KEPT, JSON.stringify(look));
                dispatchEvent(new CustomEvent("wsss:look", { detail: look }));
                return look;
            },

            leaderboardPurge: () => grid("leaderboard-grid", (api) => api.purgeInfiniteCache()),
            // A grid without rows has no block that could be refreshed.
            leaderboardRefresh: () =>
                grid("leaderboard-grid", (api) => (api.getDisplayedRowCount() ? api.refreshInfiniteCache() : api.purgeInfiniteCache())),

            // What the grid holds of the address: how it is sorted and filtered, and the rows that are checked.
            leaderboardHeld(asked, selected, before) {
                const { no_update } = dash_clientside;
                const sort = asked ? asked.sortModel.map((part) => `${part.colId}:${part.sort}`).join(",") : no_update;
                const filter = asked ? (Object.keys(asked.filterModel).length ? JSON.stringify(asked.filterModel) : null) : no_update;
                pick(before ?? []);
                for (const row of selected ?? []) awaited.delete(row.newest);
                const runs = [...new Set([...(selected ?? []).map((row) => row.newest), ...awaited])];
                return [sort, filter, same(runs, before) ? no_update : runs];
            },

            leaderboardLinks(dataset, split, method, supervision, sort, filter, runs) {
                const shown = { dataset, split, method, supervision, sort, filter };
                const picked = (runs?.length ?? 0) > 0 ? text(runs).split(",") : [];
                const data = dataset === "every" ? null : dataset;
                return [
                    addressed("/compare", { runs: picked }),
                    addressed("/masks", { dataset: data, runs: picked }),
                    ...["csv", "md", "tex"].map((kind) => addressed(`/files/leaderboard.${kind}`, shown)),
                    picked.length ? "action" : "hidden",
                    picked.length ? "action" : "hidden",
                    picked.length ? "hidden" : "quiet",
                ];
            },
        },
    });
})();
