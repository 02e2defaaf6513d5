"""What strangers may send: bundles, checkpoints, board replies, run folders; and the sentence that each case gets."""
