import platform

from drgn.training import memory


def test_only_glibc_is_asked(monkeypatch):
    assert memory.keep_freed() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed()
