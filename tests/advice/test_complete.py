"""No sentence without a test that follows its advice, no test that follows one that is no longer there."""

from tests.advice import followed, sentences

# Sentences with nothing to do, or nothing that can be done here, and why.
PASSED_ON = "passes on sentences that stand elsewhere"
CHANGED = "of a bundle that somebody changed: tests/hostile has it refused, and copied or exported again it is whole"
CHECKPOINT = "of a checkpoint that somebody changed: tests/hostile has it refused, fetched again it is not"
NOT_YET = "refused in a test; that what it advises helps, no test has tried yet"
OURS = "a fault of masters-edge or of a runtime: there is no bundle, and whoever sees it can only report it"
INSTALLED = "it is installed here, and the other tests of that part are made with it"
NOT_OURS = "a device that isn't the user's own, or lies: tests/hostile has it refused"
SYSTEM = "the reason is the file's or the system's own: mend or replace what it names"
NOTHING_TO_DO = {
    "run/cast.py: data.test, which bench would ask: {}\n": PASSED_ON,
    "question {}: the image in {} can't be used: {}": PASSED_ON,
    "sources.py: the data set {} can't be loaded: {}": "the library's own words",
    "load.py: {}not valid YAML ({})\n": "a last resort: whatever was tried is refused before, with its line",
    "fastest.py: <'; '.join(left_out.values())>": PASSED_ON,
    "exporting.py: <event['error']>": PASSED_ON,
    "exporting.py: {} failed: {}": PASSED_ON,
    "workflow.py: <'; '.join((str(failure) for failure in failures))>": PASSED_ON,
    "prompt.py: the bundle's chat template refuses the question ({})": "the template's own words",
    "preview/command.py: nothing was started": "as the person at the keyboard said",
    "Core ML runs on macOS 15 and iOS 18 only; copy the bundle to a Mac": "there is no Mac here",
    "GGUF bundles are answered on Linux and macOS here; elsewhere use llama.cpp's own programs": "no Windows here",
    "fastest.py: no backend runs bundles for {}; known are: {}": "a bundle of a target that this version doesn't have",
    "this architecture keeps {} beside its weights, which can't be made up; it can't be previewed": "there is no way",
    "runtime/families/__init__.py: the bundle's tokenizer has no text for the place of a picture; {}": CHANGED,
    "runtime/families/__init__.py: the bundle's settings make {} tokens of the picture, and {} are the most": CHANGED,
    "runtime/families/__init__.py: {}: {} is no token's text; {}": CHANGED,
    "runtime/images.py: the bundle's settings make {} x {} pixels of the picture, and {} are the most": CHANGED,
    "runtime/images.py: the bundle's settings cut the picture into {} tiles, and {} are the most": CHANGED,
    "runtime/opening.py: {} names no graph for {}; {}": CHANGED,
    "runtime/opening.py: {} can't load {} ({}); {}": CHANGED,
    "runtime/opening.py: {}: the graph {} is no {}; {}": CHANGED,
    "runtime/settings.py: {} is no JSON object; {}": CHANGED,
    "runtime/settings.py: {}: {}{}; {}": CHANGED,
    "runtime/student.py: {}: its settings don't fit its graphs ({}); {}": CHANGED,
    "bundle/manifest.py: {} lists {} twice; {}": CHANGED,
    "bundle/manifest.py: {}: the graph of {}, {}, is none of its files; {}": CHANGED,
    "bundle/manifest.py: {}: {} reads {}, which is none of the bundle's files; {}": CHANGED,
    "bundle/onnx_files.py: {}: {} reads beyond the end of {}; {}": CHANGED,
    "bundle/onnx_files.py: {}: {} is no whole ONNX file; {}": CHANGED,
    "families/checks.py: {} has no weight_map of tensors and files; {}": CHECKPOINT,
    "families/checks.py: {} is no JSON object; {}": CHECKPOINT,
    "families/checks.py: {} can't be read ({}); {}": CHECKPOINT,
    "families/checks.py: {}: {} names a kernel on the hub, a program, and masters-edge loads none": CHECKPOINT,
    "families/checks.py: {}: {} asks for kernels of the hub, and masters-edge loads none; remove {}": CHECKPOINT,
    "families/checks.py: {} names a quantizer ({}), and quantized checkpoints are not loaded": CHECKPOINT,
    "integers.py: {} is quantized in the bundle's files but not in the student; no bundle was written": OURS,
    "integers.py: {} is quantized, but its integers are not in the files; no bundle was written": OURS,
    "integers.py: the scales of {} in the files are not torchao's; no bundle was written": OURS,
    "integers.py: the integers of {} in the files are not torchao's{}; no bundle was written": OURS,
    "parity.py: parity failed: the greedy answer to sample {}": OURS,
    "parity.py: parity failed: the answer to {} has log-probabilities off": OURS,
    "{} has no responses to question {}; delete it, and the same command makes it again": NOT_YET,
    "phase.py: <_stopped(trainer, number, error)>": NOT_YET,
    "train.liger: liger-kernel's fused layers need a GPU; leave it out on this machine": "there is no GPU here",
    "train.liger needs liger-kernel, which is not installed; run: pip install liger-kernel": "asked on a GPU alone",
    "engines/server.py: {}{}\n": PASSED_ON,
    "engines/server.py: {}: the endpoint's {} {}\n": NOT_YET,
    "can't come from {}, model {}: that is the same for every mask ratio": NOT_YET,
    "the endpoint's url is {}; give all of it": NOT_YET,
    "is no answer of an OpenAI-compatible server": NOT_YET,
    "the server at {} can't be reached, {} ({}: {}); start it": NOT_YET,
    "the server at {} ended its answer for the reason {}": "the server's own reason, which stands in its own log",
    "is to answer with vLLM, which isn't installed": NOT_YET,
    "vLLM in {} processes of one run isn't built in": NOT_YET,
    "vLLM refuses a request of {}: {}": "vLLM's own words",
    "vLLM can't start {} ({}): {}: {}": NOT_YET,
    "parity.py: parity failed: at the settings that ship the answer to sample {}": NOT_YET,
    "parity.py: the student itself computes numbers that aren't finite": NOT_YET,
    "finite.py: {} are not all finite: {} holds infinity or NaN": NOT_YET,
    "pipeline.py: {}; no bundle was written; take another target, or another version of the runtime": NOT_YET,
    "the student in {} has rotary positions (longrope) whose frequencies change": "there is no way",
    "backends/__init__.py: the backend {} has no setting {}; it has: {}": NOT_YET,
    "contained.py: <found>": PASSED_ON,
    "prompt.py: the tokenizer can't read the question ({}); ask it in other words": NOT_YET,
    "student.py: on {} the student's numbers are not finite, so it has no answer": NOT_YET,
    "run/folder.py: {} is not finished; masters-edge distill goes on with it": NOT_YET,
    "parity.py: parity failed: {} is off by {}": OURS,
    "operators.py: a convolution with padding {}": OURS,
    "operators.py: padding of mode {} {}": OURS,
    "program.py: the operator {} ({}) {}": OURS,
    "benchmarks/devices/_adb.py: {} can't be run ({}); install adb anew": INSTALLED,
    "benchmarks/devices/_adb.py: the phone {} doesn't forward a port to this machine": NOT_YET,
    "benchmarks/devices/_adb.py: adb {} brings far more than a phone has to say; is it your phone?": NOT_OURS,
    "benchmarks/devices/_replies.py: {} sent something that is no answer of masters-edge while {}": NOT_OURS,
    "benchmarks/protocol.py: what {} measured of {} can't be read ({}); remove {} and measure again": NOT_OURS,
    "benchmarks/devices/_copying.py: {} came out wrong on {} {} times; is its disk in order?": "its owner has to look",
    "benchmarks/devices/_openssh.py: {} has {}, and Python 3.10 or newer is needed; install it there": INSTALLED,
    "benchmarks/devices/_openssh.py: measuring over ssh needs the program ssh; install OpenSSH's client": INSTALLED,
    "benchmarks/report/style.py: drawing a report needs matplotlib; run: pip install": INSTALLED,
    "benchmarks/devices/_openssh.py: {} failed while {} ({})": "the board's own words",
    "benchmarks/devices/_openssh.py: <_why_not(channel.stderr.text(), self.address)>": NOT_YET,
    "benchmarks/devices/_openssh.py: <_sentence(found, self.address, self.doing)>": NOT_YET,
    "benchmarks/devices/adb.py: the page did not open on the phone {} within {} s; unlock it": "there is no phone here",
    "benchmarks/devices/local.py: measuring {} stopped: {}": PASSED_ON,
    "benchmarks/devices/ssh.py: measuring {} on {} stopped: {}": PASSED_ON,
    "benchmarks/page/desk.py: measuring {} in the browser stopped: {}": PASSED_ON,
    "benchmarks/page/server.py: <assets.missing()>": PASSED_ON,
    "benchmarks/protocol.py: measuring {} stopped: {}": PASSED_ON,
    "benchmarks/worker.py: <_last_words(stderr.read().decode('utf-8', 'replace'), status)>": PASSED_ON,
    "benchmarks/page/desk.py: {} was not measured: measuring was stopped on the device": "as the person there said",
    "benchmarks/page/record.py: {} holds answers to other questions; remove {}": NOT_YET,
    "benchmarks/protocol.py: the questions can't be written to {} ({})": SYSTEM,
    "benchmarks/report/ladder.py: {} can't be read ({}: {})": SYSTEM,
    "benchmarks/report/page.py: the settings of {} can't be read ({})": SYSTEM,
    "benchmarks/report/training.py: {} can't be read ({})": SYSTEM,
    "benchmarks/results.py: {} can't be read ({})": SYSTEM,
    "benchmarks/worker.py: {} is no job folder, it has no {}": "only masters-edge starts a worker",
    "benchmarks/worker.py: a cold start left no line in {}; is the disk full?": NOT_YET,
}


def test_every_sentence_is_followed_or_has_nothing_to_do() -> None:
    known = {**followed(), **NOTHING_TO_DO}
    wrong = []
    for place, text in sentences().items():
        matching = [piece for piece in known if piece in text]
        if len(matching) != 1:
            wrong.append(f"{place}: {text!r} is in {len(matching)} of them {matching}")
    assert not wrong, "\n".join(wrong)


def test_every_piece_is_of_one_sentence() -> None:
    texts = sentences().values()
    counts = {piece: sum(piece in text for text in texts) for piece in {**followed(), **NOTHING_TO_DO}}
    assert {piece: count for piece, count in counts.items() if count != 1} == {}
