"""The platform: one that can sleep, as CUDA's does."""


class _Platform:
    def is_sleep_mode_available(self) -> bool:
        return True


current_platform = _Platform()
