"""recon3d.media"""
