import os

import pytest

from edgernn.quiet import quiet_stderr


@pytest.mark.parametrize(("error", "expected"), [(ImportError, "greetings"), (KeyboardInterrupt, ""), (None, "")])
def test_only_an_error_lets_out_what_was_held_back(
    capfd: pytest.CaptureFixture[str], error: type[BaseException] | None, expected: str
) -> None:
    def load() -> None:
        with quiet_stderr():
            os.write(2, b"greetings")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            load()
    else:
        load()
    assert capfd.readouterr().err == expected
