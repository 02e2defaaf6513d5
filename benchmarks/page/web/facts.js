// What this browser tells of itself and of its device: strings, numbers and nulls, for `calls.claim`; and the same in a
// line for people.

const PATIENCE_MS = 5000; // a graphics driver that hangs is none

export async function facts() {
  const agent = navigator.userAgentData ?? null;
  const hints = await hintsOf(agent);
  return {
    user_agent: navigator.userAgent,
    brands: (agent?.brands ?? []).map(({ brand, version }) => ({ brand, version })),
    platform: hints.platform || agent?.platform || navigator.platform || null,
    platform_version: hints.platformVersion || null,
    architecture: [hints.architecture, hints.bitness].filter(Boolean).join(" ") || null,
    model: hints.model || null,
    mobile: agent?.mobile ?? null,
    cores: navigator.hardwareConcurrency || null,
    memory_gib: navigator.deviceMemory ?? null,
    webgpu: await adapter(),
    secure_context: window.isSecureContext,
    isolated: window.crossOriginIsolated ?? false,
    screen: `${screen.width}x${screen.height} at ${Math.round(devicePixelRatio * 100) / 100}`,
  };
}

async function hintsOf(agent) {
  try {
    return (await agent?.getHighEntropyValues(["architecture", "bitness", "model", "platformVersion"])) ?? {};
  } catch {
    return {}; // a browser may keep them to itself
  }
}

// The graphics processor that WebGPU would run on; null where there is none.
async function adapter() {
  if (!navigator.gpu) return null;
  try {
    const late = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS, null));
    const found = await Promise.race([navigator.gpu.requestAdapter(), late]);
    if (!found) return null;
    const { vendor = "", architecture = "", device = "", description = "" } = found.info ?? {};
    return { vendor, architecture, device, description };
  } catch {
    return null;
  }
}

// In user agents, more than one of these stand in each; the first that is found is the one.
const AGENTS = [
  [/\bEdgA?\/(\d+)/, "Edge"], [/\bOPR\/(\d+)/, "Opera"], [/\bSamsungBrowser\/(\d+)/, "Samsung Internet"],
  [/\b(?:Firefox|FxiOS)\/(\d+)/, "Firefox"], [/\b(?:Chrome|CriOS|HeadlessChrome)\/(\d+)/, "Chrome"],
  [/\bVersion\/([\d.]+).* Safari\//, "Safari"],
];

export function inWords({ brands, user_agent, model, platform, cores, webgpu, isolated }) {
  const gpu = webgpu && [webgpu.vendor, webgpu.architecture].filter(Boolean).join(" ");
  return [
    [browserName(brands, user_agent), [model, platform].filter(Boolean).join(", ")].filter(Boolean).join(" on "),
    cores && `${cores} core${cores === 1 ? "" : "s"}`,
    isolated ? "threads" : "one thread",
    webgpu ? `WebGPU${gpu ? ` (${gpu})` : ""}` : "no WebGPU",
  ].filter(Boolean).join(" · ");
}

function browserName(brands, agent) {
  const own = brands.filter(({ brand }) => !/not.*brand/i.test(brand));
  const named = own.find(({ brand }) => brand !== "Chromium") ?? own[0];
  if (named) return `${named.brand} ${named.version}`;
  for (const [mark, name] of AGENTS) {
    const found = mark.exec(agent);
    if (found) return `${name} ${found[1]}`;
  }
  return "This browser";
}
