// Time and bytes of the last request, and a chart of those before.

import { bytesText, chartOf, msText, PARTS, partsOf } from "./costs.js";
import { byId, make } from "./dom.js";

const KEPT = 60;
const KIND = { photo: "Upload and encoding", click: "Last request" };

export class CostPanel {
  constructor() {
    this.costs = [];
  }

  add(cost) {
    this.costs = [...this.costs.slice(-KEPT), cost];
    byId("cost-empty").hidden = true;
    byId("cost").hidden = false;
    this.draw(cost);
  }

  draw(cost) {
    byId("cost-total").textContent = `${KIND[cost.kind]}: ${msText(cost.ms)}`;
    const clicks = this.costs.filter(({ kind }) => kind === "click");
    const { chart, most } = chartOf(clicks.length ? clicks : this.costs);
    byId("cost-chart").replaceChildren(make("span", { class: "scale", title: "Height of the chart" }, msText(most)), chart);
    const parts = partsOf(cost);
    byId("cost-parts").replaceChildren(
      ...PARTS.map(({ name, label }) =>
        make("div", {}, make("dt", {}, make("span", { class: `dot part-${name}` }), label), make("dd", {}, msText(parts[name]))),
      ),
    );
    const facts = [
      ["Device", cost.device],
      ["Embedding", cost.cache && (cost.cache === "hit" ? "cached" : "computed")],
      ["Sent", bytesText(cost.bytesUp)],
      ["Received", bytesText(cost.bytesDown)],
    ];
    byId("cost-facts").replaceChildren(
      ...facts.filter(([, value]) => value).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
  }
}
