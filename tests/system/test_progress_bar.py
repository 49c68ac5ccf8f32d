import io

from focaldet.system.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_whose_time_begins_with_the_first_photo(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setattr("focaldet.system.progress._PATIENCE_S", 0)
    with progress_bar("decoding") as progress:
        assert progress is not None
        assert terminal.getvalue() == ""
        progress(64, 128)
        progress(128, 128)
    assert "decoding:" in terminal.getvalue()
    assert "/128" in terminal.getvalue()


def test_nothing_is_drawn_before_the_first_photo_nor_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress_bar("decoding"):
        pass
    assert terminal.getvalue() == ""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_bar("decoding") as progress:
        assert progress is None
