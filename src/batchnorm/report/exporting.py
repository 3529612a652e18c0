"""Framed figures as the bytes of SVG and PNG files, drawn by a Chrome or Chromium that kaleido drives."""

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batchnorm.errors import MissingExtraError, UsageError
from batchnorm.report.framing import Framed

__all__ = ["FORMATS", "export"]

FORMATS = {"svg": 1, "png": 2}  # pixels of the file to a pixel of the picture
BROWSER = (
    "install Chrome or Chromium (`apt install chromium`, or `kaleido_get_chrome`), "
    "or set BROWSER_PATH to the one that you have"
)


def export(pictures: Sequence[tuple[Framed, str]]) -> list[bytes]:
    """Draw pictures, all in one browser; nothing is asked of the network.

    Args:
        pictures: each with its format, `svg` or `png`.

    Returns:
        The contents of the files.

    Raises:
        MissingExtraError: kaleido is not installed, or there is no browser.
        UsageError: the browser does not start, or stops.
    """
    try:
        from kaleido import errors
    except ImportError as error:
        raise MissingExtraError(
            f"pictures need {error.name or error}, which is not installed: pip install 'batchnorm[pictures]'"
        ) from None
    try:
        return _finished(_drawn(pictures))
    except errors.ChromeNotFoundError:
        raise MissingExtraError(f"pictures are drawn by a browser, and none was found: {BROWSER}") from None
    except (errors.BrowserFailedError, errors.BrowserClosedError, errors.KaleidoError, TimeoutError) as error:
        raise UsageError(
            f"the browser that draws pictures failed ({type(error).__name__}: {error}); {BROWSER}"
        ) from None


async def _drawn(pictures: Sequence[tuple[Framed, str]]) -> list[bytes]:
    from kaleido import Kaleido

    # Without this it would fetch MathJax from the network; no text of ours is TeX.
    async with Kaleido(n=1, mathjax=False) as browser:
        return [
            await browser.calc_fig(
                picture.spec,
                opts={
                    "format": format,
                    "width": picture.width,
                    "height": picture.height,
                    "scale": FORMATS[format],
                },
            )
            for picture, format in pictures
        ]


def _finished(drawing: Coroutine[Any, Any, list[bytes]]) -> list[bytes]:
    """Run to the end, also where a notebook has a loop running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(drawing)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, drawing).result()
