// What this browser tells of itself and of its device: strings, numbers and nulls, for `calls.claim`.

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
