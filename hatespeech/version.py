"""The version, stated here and nowhere else.

The build reads this file, and so does whatever runs from a checkout or in the image, where the
package is not installed and so has no metadata to ask.
"""

__version__ = "0.1.0"
